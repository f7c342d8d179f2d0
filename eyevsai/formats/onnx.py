"""ONNX: one file for ONNX Runtime, with all that a model knows inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.format import Format, Pixels, Runtime, Source
from eyevsai.formats.shortcut import with_shortcut
from eyevsai.formats.tracing import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
CPU = ("CPUExecutionProvider",)


class Onnx(Format):
    """For every family."""

    name = "onnx"

    def write(self, source: Source, folder: Path) -> None:
        """See `Format.write`."""
        import onnx

        onnx.save(with_shortcut(to_onnx(source), source.learner.preprocessing), folder / MODEL)

    def open(self, folder: Path) -> Runtime:
        """See `Format.open`."""
        return OnnxRuntime(folder / MODEL)


class OnnxRuntime:
    """An ONNX file in ONNX Runtime, which lets several threads ask one session."""

    def __init__(self, path: Path, providers: tuple[Any, ...] = CPU) -> None:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait take the cores from the processes that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; it warns of what an exporter does, not of what a person can mend
        self.session = onnxruntime.InferenceSession(path, options, providers=list(providers))

    def predict_proba(self, images: Pixels) -> Probabilities:
        """See `Runtime.predict_proba`."""
        (found,) = self.session.run([OUTPUT], {INPUT: images})
        probabilities: Probabilities = found
        return probabilities


def to_onnx(source: Source) -> onnx.ModelProto:
    """The model's graph; classes, preprocessing and threshold stand in its metadata."""
    import onnx

    learner = source.learner
    known = {
        "classes": learner.classes, "preprocessing": learner.preprocessing.to_json(), "threshold": source.threshold,
        "family": learner.family, "variation": learner.variation,
    }  # fmt: skip
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in known.items()}
    onnx.helper.set_model_props(source.onnx, texts)
    return source.onnx
