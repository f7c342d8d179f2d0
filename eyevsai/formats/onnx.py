"""ONNX format: one file for ONNX Runtime, which also contains the model's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import ExportSource, Format, Pixels, Runtime
from eyevsai.formats.onnx_versions import describe_versions, save_onnx
from eyevsai.formats.skip_resize import add_resize_skip
from eyevsai.formats.tracing import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
INT8 = "onnx-int8"  # the format of a quantized file
QUANTIZER = "onnx.quantize"  # producer name in the files of ONNX Runtime's quantizer
# fields of the manifest that the file contains as metadata
METADATA_FIELDS = ("classes", "preprocessing", "threshold", "family", "variation")
CPU = ("CPUExecutionProvider",)


class Onnx(Format):
    """ONNX export of a model of any family."""

    name = "onnx"

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write `model.onnx`, a graph from uint8 images of any size to float32 probabilities."""
        save_onnx(add_resize_skip(to_onnx(source), source.learner.preprocessing), folder / MODEL)

    def open(self, folder: Path) -> Runtime:
        return OnnxRuntime(folder / MODEL)

    def requirements(self, folder: Path) -> Mapping[str, Any]:
        """Return `onnx`: opset, IR version, and the oldest ONNX Runtime that opens the file."""
        return {"onnx": describe_versions(folder / MODEL)}

    def describe(self, runtime: Runtime) -> Mapping[str, Any]:
        """Return the metadata of the file, and its format by whether it is quantized."""
        assert isinstance(runtime, OnnxRuntime)
        unquantized = Onnx.name if self.name == INT8 else self.name
        return runtime.metadata() | {"format": INT8 if runtime.is_quantized() else unquantized}


class OnnxRuntime:
    """ONNX file in ONNX Runtime, whose sessions are thread-safe."""

    def __init__(self, path: Path, providers: tuple[Any, ...] = CPU) -> None:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # spinning threads would occupy the cores of the processes that decode the next images
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # errors only: warnings concern the exporter, and users cannot fix their causes
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=list(providers))

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        (output,) = self.session.run([OUTPUT], {INPUT: images})
        probabilities: Probabilities = output
        return probabilities

    def metadata(self) -> dict[str, Any]:
        """Return the metadata that `to_onnx` added to the file."""
        texts = self.session.get_modelmeta().custom_metadata_map
        return {name: json.loads(text) for name, text in texts.items() if name in METADATA_FIELDS}

    def is_quantized(self) -> bool:
        """Return True if ONNX Runtime's quantizer wrote the file."""
        return bool(self.session.get_modelmeta().producer_name == QUANTIZER)


def to_onnx(source: ExportSource) -> onnx.ModelProto:
    """Return `source.onnx` with the values of `METADATA_FIELDS` set as metadata, in JSON."""
    import onnx

    learner = source.learner
    values = (
        learner.classes,
        learner.preprocessing.to_json(),
        source.threshold,
        learner.family,
        learner.variation,
    )
    texts = {
        name: json.dumps(value, ensure_ascii=False)
        for name, value in zip(METADATA_FIELDS, values, strict=True)
    }
    onnx.helper.set_model_props(source.onnx, texts)
    return source.onnx
