"""The learner's graph as torch.export sees it: what all formats are made from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.export import Dim, ExportedProgram

from eyevsai.models.learner import Learner

if TYPE_CHECKING:
    from onnx import ModelProto

EXAMPLE = (2, 96, 128, 3)  # of no square, so that height and width are told apart
FREE = ("batch", "height", "width")
OPSET = 20
INPUT, OUTPUT = "images", "probabilities"


def trace(learner: Learner) -> ExportedProgram:
    """From N,H,W,3 uint8 to N,C float32, with N, H and W free."""
    free = {axis: Dim(name, min=1) for axis, name in enumerate(FREE)}
    with quietly(), torch.no_grad():
        return torch.export.export(learner.graph(), (torch.zeros(EXAMPLE, dtype=torch.uint8),), dynamic_shapes=(free,))


def convert(program: ExportedProgram) -> ModelProto:
    """A traced graph as ONNX, with names for the dimensions of input and output."""
    with quietly():
        converted = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
    if converted is None:  # only where a file name is given
        raise TypeError("torch.onnx.export gave no program")
    proto: ModelProto = converted.model_proto
    for node in proto.graph.node:  # where each was written, on this machine: nobody else's matter
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]  # what lies between input and output is for whoever opens the file to find
    for value, names in ((proto.graph.input[0], FREE), (proto.graph.output[0], FREE[:1])):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dimension.dim_param = name
    return proto


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, exporters keep to themselves what their users cannot change."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
