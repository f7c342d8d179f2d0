"""Tracing of a learner with torch.export, and its conversion to ONNX."""

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

EXAMPLE = (2, 96, 128, 3)  # not square, so that tracing does not equate height and width
DYNAMIC_AXES = ("batch", "height", "width")
OPSET = 18  # of torch's ONNX exporter itself: for others, it converts the graph it has made
INPUT, OUTPUT = "images", "probabilities"
CROPS, FIRST, RESIZING = "crops", "channels_first", "resizing/"
CHANNELS = 3
SCOPES = "pkg.torch.onnx.name_scopes"  # metadata key for the modules that a node belongs to


def trace(learner: Learner) -> ExportedProgram:
    """Trace the learner's inference, from N,H,W,3 uint8 to N,C float32; N, H and W are dynamic."""
    dynamic = {axis: Dim(name, min=1) for axis, name in enumerate(DYNAMIC_AXES)}
    with suppress_warnings(), torch.no_grad():
        return torch.export.export(
            learner.inference_module(),
            (torch.zeros(EXAMPLE, dtype=torch.uint8),),
            dynamic_shapes=(dynamic,),
        )


def convert(program: ExportedProgram) -> ModelProto:
    """Convert a traced graph to ONNX.

    The names of the nodes that resize images begin with RESIZING. Their only output to other nodes
    has the name CROPS.

    Raises:
        ValueError: the resizing nodes do not have exactly one output to other nodes.
    """
    with suppress_warnings():
        converted = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    if converted is None:  # for mypy: None is returned only if a file name is given
        raise TypeError("torch.onnx.export returned no program")
    proto: ModelProto = converted.model_proto
    _name_crops(proto.graph)
    for node in proto.graph.node:  # the metadata contain source paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    # runtimes infer the shapes between input and output
    del proto.graph.value_info[:]
    dynamic = ((proto.graph.input[0], DYNAMIC_AXES), (proto.graph.output[0], DYNAMIC_AXES[:1]))
    for value, names in dynamic:
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dimension.dim_param = name
    return proto


def _name_crops(graph: GraphProto) -> None:
    """Rename the resizing nodes and their output to other nodes, as `convert` describes."""
    for node in graph.node:
        if any(
            entry.key == SCOPES and "'resizing'" in entry.value for entry in node.metadata_props
        ):
            node.name = f"{RESIZING}{node.name}"
    resize_nodes, others = split_nodes(graph)
    (crops,) = {name for node in resize_nodes for name in node.output} & {
        name for node in others for name in node.input
    }
    shape = next(
        value.type.tensor_type.shape.dim for value in graph.value_info if value.name == crops
    )
    if shape[1].dim_value != CHANNELS:
        _rename(graph, crops, CROPS)
        return
    # The exporter merged the permutation at the end of resizing with a later one, so the crops are
    # N,3,H,W here. Two permutations are inserted, so that CROPS is N,H,W,3 as in other graphs.
    _rename(graph, crops, FIRST)
    for node in others:
        node.input[:] = [f"{CROPS}_{FIRST}" if name == FIRST else name for name in node.input]
    last = _permute(FIRST, CROPS, f"{RESIZING}last", (0, 2, 3, 1))
    back = _permute(CROPS, f"{CROPS}_{FIRST}", "first", (0, 3, 1, 2))
    index = next(index for index, node in enumerate(graph.node) if FIRST in node.output) + 1
    graph.node.insert(index, last)
    graph.node.insert(index + 1, back)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _permute(source: str, target: str, name: str, axes: tuple[int, ...]) -> NodeProto:
    import onnx

    return onnx.helper.make_node("Transpose", [source], [target], name=name, perm=axes)


def split_nodes(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """Return the nodes that resize images, and all others, each in the order of the graph."""
    resize_nodes = [node for node in graph.node if node.name.startswith(RESIZING)]
    return resize_nodes, [node for node in graph.node if not node.name.startswith(RESIZING)]


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress Python warnings and log records up to WARNING, process-wide.

    Exporters warn about their own internals, which users cannot change.
    """
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
