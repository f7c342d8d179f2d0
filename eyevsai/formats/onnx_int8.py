"""ONNX format with 8-bit weights and activations of convolutions (Jacob et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyevsai.formats.base import ExportSource, Pixels
from eyevsai.formats.onnx import INT8, MODEL, Onnx, to_onnx
from eyevsai.formats.onnx_versions import save_onnx
from eyevsai.formats.skip_resize import add_resize_skip
from eyevsai.formats.tracing import INPUT, suppress_warnings

# Resizing and softmax stay in floating point. The activation functions are quantized because they
# would otherwise require conversions between the convolutions.
QUANTIZED = ["Conv", "Gemm", "Relu", "Clip"]
BATCH_SIZE = 16


class OnnxInt8(Onnx):
    """ONNX export of a network, quantized with value ranges that are measured on train images."""

    name = INT8
    example = "onnx"
    networks_only = True
    max_accuracy_loss = 1.0
    min_agreement = 0.97

    def write(self, source: ExportSource, folder: Path) -> None:
        """Quantize the ONNX graph with the calibration images and write `model.onnx`."""
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        float32, folded = folder / "whole.onnx", folder / "folded.onnx"
        onnx.save(add_resize_skip(to_onnx(source), source.learner.preprocessing), float32)
        _fold_normalization(float32, folded)
        with suppress_warnings():
            quantize_static(
                folded,
                folder / MODEL,
                _CalibrationReader(source.calibration()),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        save_onnx(onnx.load(folder / MODEL), folder / MODEL)
        float32.unlink()
        folded.unlink()


def _fold_normalization(source: Path, target: Path) -> None:
    """Write a graph with normalization folded into the convolutions that are then quantized."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class _CalibrationReader:
    """Calibration images in batches, with the interface of ONNX Runtime's quantizer."""

    def __init__(self, images: Pixels) -> None:
        self.batches: Iterator[Pixels] = (
            images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)
        )

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the name of the input, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}
