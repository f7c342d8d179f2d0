"""TensorFlow: a SavedModel, which tensorflow-cpu opens by itself."""

from __future__ import annotations

import operator
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import ExportSource, Format, Pixels, Runtime
from eyevsai.formats.tracing import INPUT, OUTPUT

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FOLDER = "saved_model"
SIGNATURE = "serving_default"
IN_PLACE = re.compile(r"(?<!_)_\.")  # relu_.default computes what relu.default does


class TensorFlow(Format):
    """For networks: the traced graph, operation by operation, with the weights as variables."""

    name = "tensorflow"
    networks_only = True
    can_hold_code = True  # a SavedModel may have operations that write files
    extra = ("tensorflow", "tensorflow")
    tolerance = 1e-4

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write a SavedModel with the operations of the exported program."""
        tf = _tensorflow()
        program = source.program
        module = tf.Module()
        module.tensors = [
            tf.Variable(tensor.numpy(), trainable=False) for tensor in _tensors(program)
        ]

        def predict(images: Any) -> Mapping[str, Any]:
            return {OUTPUT: compute(program, module.tensors, images)}

        images = tf.TensorSpec((None, None, None, 3), tf.uint8, INPUT)
        module.predict = tf.function(predict, input_signature=[images])
        tf.saved_model.save(module, str(folder / FOLDER), signatures={SIGNATURE: module.predict})

    def open(self, folder: Path) -> Runtime:
        return TensorFlowRuntime(folder / FOLDER)


class TensorFlowRuntime:
    """The serving signature of a SavedModel."""

    def __init__(self, path: Path) -> None:
        tf = _tensorflow()
        self.constant: Callable[[Pixels], Any] = tf.constant
        self.loaded = tf.saved_model.load(str(path))  # owns the variables of its signature
        self.signature = self.loaded.signatures[SIGNATURE]

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        found: Probabilities = self.signature(
            **{INPUT: self.constant(np.ascontiguousarray(images))}
        )[OUTPUT].numpy()
        return found


def compute(program: ExportedProgram, tensors: list[Any], images: Any) -> Any:
    """What a traced graph gives for TensorFlow's `images`.

    Raises:
        UserError: the graph has an operation that is not known here.
    """
    from torch.fx.node import map_arg

    from eyevsai.formats.aten_to_tf import OPERATIONS, unknown

    values: dict[Any, Any] = {}
    given = iter([*tensors, images])
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "output":
            return values[node.args[0][0]]
        elif node.target is operator.getitem:
            values[node] = values[node.args[0]][node.args[1]]
        else:
            name = IN_PLACE.sub(".", str(node.target).removeprefix("aten."))
            if name not in OPERATIONS:
                raise unknown(name)
            values[node] = OPERATIONS[name](
                *map_arg(node.args, values.get), **map_arg(node.kwargs, values.get)
            )
    raise TypeError("a graph without an output")


def _tensors(program: ExportedProgram) -> list[Any]:
    """The tensors that the graph takes before its images, in order."""
    known = {**program.state_dict, **program.constants}
    return [
        known[spec.target].detach()
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    ]


def _tensorflow() -> Any:
    """TensorFlow, without what its C++ parts announce on standard error, past Python, while they
    are loaded.
    """
    with suppress(ImportError):
        # torch loads it to trace a graph; loaded after TensorFlow it ends the process
        import_module("triton")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    standard_error = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
    return tensorflow
