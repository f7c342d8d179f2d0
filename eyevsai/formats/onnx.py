"""ONNX: one file for ONNX Runtime, with all that a model knows inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.format import Format, Pixels, Runtime, Source
from eyevsai.formats.tracing import FREE, INPUT, OUTPUT, quietly

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
OPSET = 20
CPU = ("CPUExecutionProvider",)


class Onnx(Format):
    """For every family."""

    name = "onnx"

    def write(self, source: Source, folder: Path) -> None:
        """See `Format.write`."""
        import onnx

        onnx.save(to_onnx(source), folder / MODEL)

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
    import torch

    learner = source.learner
    with quietly():
        program = torch.onnx.export(
            source.program, (), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
            verbose=False,
        )  # fmt: skip
    if program is None:  # only where a file name is given
        raise TypeError("torch.onnx.export gave no program")
    proto = program.model_proto
    for node in proto.graph.node:  # where each was written, on this machine: nobody else's matter
        del node.metadata_props[:]
        node.doc_string = ""
    _name_dimensions(proto)
    known = {
        "classes": learner.classes, "preprocessing": learner.preprocessing.to_json(), "threshold": source.threshold,
        "family": learner.family, "variation": learner.variation,
    }  # fmt: skip
    onnx.helper.set_model_props(proto, {name: json.dumps(value, ensure_ascii=False) for name, value in known.items()})
    return proto


def _name_dimensions(proto: onnx.ModelProto) -> None:
    """Calls the dimensions of input and output what they are; those between are for whoever opens the file to find."""
    del proto.graph.value_info[:]
    for value, names in ((proto.graph.input[0], FREE), (proto.graph.output[0], FREE[:1])):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dimension.dim_param = name
