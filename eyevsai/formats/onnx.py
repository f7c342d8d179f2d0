"""ONNX: one file for ONNX Runtime, with all that a model knows inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import ExportSource, Format, Pixels, Runtime
from eyevsai.formats.skip_resize import add_resize_skip
from eyevsai.formats.tracing import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
INT8 = "onnx-int8"  # the name of the format of a file that was quantised
QUANTIZER = "onnx.quantize"  # what it names itself in the files that it makes
# of the manifest, in a file's metadata
KNOWN = ("classes", "preprocessing", "threshold", "family", "variation")
CPU = ("CPUExecutionProvider",)


class Onnx(Format):
    """For every family."""

    name = "onnx"

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write `model.onnx`: from uint8 images of any size to float32 probabilities."""
        import onnx

        onnx.save(add_resize_skip(to_onnx(source), source.learner.preprocessing), folder / MODEL)

    def open(self, folder: Path) -> Runtime:
        return OnnxRuntime(folder / MODEL)

    def describe(self, runtime: Runtime) -> Mapping[str, Any]:
        """Return what the file says of itself."""
        assert isinstance(runtime, OnnxRuntime)
        plain = Onnx.name if self.name == INT8 else self.name
        return runtime.known() | {"format": INT8 if runtime.is_quantized() else plain}


class OnnxRuntime:
    """An ONNX file in ONNX Runtime, which lets several threads ask one session."""

    def __init__(self, path: Path, providers: tuple[Any, ...] = CPU) -> None:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait take the cores from the processes that decode the next
        # images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # errors; it warns of what an exporter does, not of what a person can mend
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=list(providers))

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        (found,) = self.session.run([OUTPUT], {INPUT: images})
        probabilities: Probabilities = found
        return probabilities

    def known(self) -> dict[str, Any]:
        """What `to_onnx` wrote into the file."""
        texts = self.session.get_modelmeta().custom_metadata_map
        return {name: json.loads(text) for name, text in texts.items() if name in KNOWN}

    def is_quantized(self) -> bool:
        """Whether ONNX Runtime's quantiser made the file."""
        return bool(self.session.get_modelmeta().producer_name == QUANTIZER)


def to_onnx(source: ExportSource) -> onnx.ModelProto:
    """The model's graph; classes, preprocessing and threshold stand in its metadata."""
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
        for name, value in zip(KNOWN, values, strict=True)
    }
    onnx.helper.set_model_props(source.onnx, texts)
    return source.onnx
