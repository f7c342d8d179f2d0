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
    from onnx import GraphProto, ModelProto, NodeProto

EXAMPLE = (2, 96, 128, 3)  # of no square, so that height and width are told apart
FREE = ("batch", "height", "width")
OPSET = 20
INPUT, OUTPUT = "images", "probabilities"
CROPS, FIRST, RESIZING = "crops", "channels_first", "resizing/"
CHANNELS = 3
SCOPES = "pkg.torch.onnx.name_scopes"  # under which torch notes the module that a node comes from


def trace(learner: Learner) -> ExportedProgram:
    """From N,H,W,3 uint8 to N,C float32, with N, H and W free."""
    free = {axis: Dim(name, min=1) for axis, name in enumerate(FREE)}
    with quietly(), torch.no_grad():
        return torch.export.export(
            learner.inference_module(),
            (torch.zeros(EXAMPLE, dtype=torch.uint8),),
            dynamic_shapes=(free,),
        )


def convert(program: ExportedProgram) -> ModelProto:
    """A traced graph as ONNX.

    The names of nodes that resize begin with RESIZING; what they make of images, for all others, is
    called CROPS.

    Raises:
        ValueError: they share something else with the rest of the graph.
    """
    with quietly():
        converted = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    if converted is None:  # only where a file name is given
        raise TypeError("torch.onnx.export gave no program")
    proto: ModelProto = converted.model_proto
    _name_crops(proto.graph)
    for node in proto.graph.node:  # where each was written, on this machine: nobody else's matter
        del node.metadata_props[:]
        node.doc_string = ""
    # what lies between input and output is for whoever opens the file to find
    del proto.graph.value_info[:]
    for value, names in ((proto.graph.input[0], FREE), (proto.graph.output[0], FREE[:1])):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dimension.dim_param = name
    return proto


def _name_crops(graph: GraphProto) -> None:
    for node in graph.node:
        if any(note.key == SCOPES and "'resizing'" in note.value for note in node.metadata_props):
            node.name = f"{RESIZING}{node.name}"
    inside, others = split_nodes(graph)
    (found,) = {name for node in inside for name in node.output} & {
        name for node in others for name in node.input
    }
    shape = next(
        value.type.tensor_type.shape.dim for value in graph.value_info if value.name == found
    )
    if shape[1].dim_value != CHANNELS:
        _rename(graph, found, CROPS)
        return
    # The exporter joined the permutation at the end of resizing with one after it, so that channels
    # come first here.
    _rename(graph, found, FIRST)
    for node in others:
        node.input[:] = [f"{CROPS}_{FIRST}" if name == FIRST else name for name in node.input]
    last = _permute(FIRST, CROPS, f"{RESIZING}last", (0, 2, 3, 1))
    back = _permute(CROPS, f"{CROPS}_{FIRST}", "first", (0, 3, 1, 2))
    place = next(place for place, node in enumerate(graph.node) if FIRST in node.output) + 1
    graph.node.insert(place, last)
    graph.node.insert(place + 1, back)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _permute(source: str, target: str, name: str, axes: tuple[int, ...]) -> NodeProto:
    import onnx

    return onnx.helper.make_node("Transpose", [source], [target], name=name, perm=axes)


def split_nodes(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes that resize, and all others."""
    inside = [node for node in graph.node if node.name.startswith(RESIZING)]
    return inside, [node for node in graph.node if not node.name.startswith(RESIZING)]


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
