"""ONNX in whole numbers: weights and activations of convolutions in eight bits (Jacob et al.
2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyevsai.formats.base import ExportSource, Pixels
from eyevsai.formats.onnx import INT8, MODEL, Onnx, to_onnx
from eyevsai.formats.skip_resize import add_resize_skip
from eyevsai.formats.tracing import INPUT, quietly

# Resizing and softmax stay as they are; an activation that did too would have to be converted to
# and fro.
QUANTIZED = ["Conv", "Gemm", "Relu", "Clip"]
AT_ONCE = 16


class OnnxInt8(Onnx):
    """For networks; what each layer's numbers span is measured on train images."""

    name = INT8
    example = "onnx"
    networks_only = True
    points = 1.0
    agreement = 0.97

    def write(self, source: ExportSource, folder: Path) -> None:
        """Quantize the ONNX graph with calibration images and write it."""
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        whole, folded = folder / "whole.onnx", folder / "folded.onnx"
        onnx.save(add_resize_skip(to_onnx(source), source.learner.preprocessing), whole)
        _fold(whole, folded)
        with quietly():
            quantize_static(
                folded,
                folder / MODEL,
                _Reader(source.calibration()),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        whole.unlink()
        folded.unlink()


def _fold(source: Path, target: Path) -> None:
    """Writes the graph with normalisation folded into convolutions, so that there is one thing to
    quantise.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class _Reader:
    """Gives the quantiser its images."""

    def __init__(self, images: Pixels) -> None:
        self.batches: Iterator[Pixels] = (
            images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}
