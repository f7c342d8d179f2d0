"""TensorFlow format: a SavedModel, which tensorflow-cpu opens without other packages."""

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
IN_PLACE = re.compile(r"(?<!_)_\.")  # relu_.default is the in-place relu.default


class TensorFlow(Format):
    """SavedModel of a network, converted operation by operation, with the weights as variables."""

    name = "tensorflow"
    networks_only = True
    can_hold_code = True  # a SavedModel may contain operations that write files
    extra = ("tensorflow", "tensorflow")
    tolerance = 1e-4

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write a SavedModel with the operations of the exported program.

        Raises:
            UserError: an operation of torch is not supported.
        """
        tf = _import_tensorflow()
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
        tf = _import_tensorflow()
        self.constant: Callable[[Pixels], Any] = tf.constant
        self.loaded = tf.saved_model.load(str(path))  # owns the variables of its signature
        self.signature = self.loaded.signatures[SIGNATURE]

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        probabilities: Probabilities = self.signature(
            **{INPUT: self.constant(np.ascontiguousarray(images))}
        )[OUTPUT].numpy()
        return probabilities


def compute(program: ExportedProgram, tensors: list[Any], images: Any) -> Any:
    """Compute a traced graph in TensorFlow and return its first output.

    Args:
        program: the traced graph.
        tensors: TensorFlow variables for the graph's weights and constants, in its order.
        images: TensorFlow tensor N,H,W,3 uint8.

    Raises:
        UserError: an operation of torch is not supported.
    """
    from torch.fx.node import map_arg

    from eyevsai.formats.aten_to_tf import OPERATIONS, unsupported_operation

    values: dict[Any, Any] = {}
    inputs = iter([*tensors, images])
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
        elif node.op == "output":
            return values[node.args[0][0]]
        elif node.target is operator.getitem:
            values[node] = values[node.args[0]][node.args[1]]
        else:
            name = IN_PLACE.sub(".", str(node.target).removeprefix("aten."))
            if name not in OPERATIONS:
                raise unsupported_operation(name)
            values[node] = OPERATIONS[name](
                *map_arg(node.args, values.get), **map_arg(node.kwargs, values.get)
            )
    raise TypeError("the graph has no output node")


def _tensors(program: ExportedProgram) -> list[Any]:
    """Return the weights and constants that are inputs of the graph, in its order."""
    tensors = {**program.state_dict, **program.constants}
    return [
        tensors[spec.target].detach()
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    ]


def _import_tensorflow() -> Any:
    """Import TensorFlow without the messages that its C++ code writes to standard error."""
    with suppress(ImportError):
        # torch imports triton to trace graphs, which crashes if TensorFlow was imported before
        import_module("triton")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    standard_error = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        import tensorflow
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
    return tensorflow
