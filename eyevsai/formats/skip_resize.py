"""Branch of an ONNX graph that skips the resize for images that already have the resized size.

The resize takes longer than a small network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eyevsai.data.preprocessing import Preprocessing
from eyevsai.formats.tracing import CROPS, INPUT, split_nodes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

RESIZED = "resized_crops"


def add_resize_skip(model: ModelProto, preprocessing: Preprocessing) -> ModelProto:
    """Return a copy of the graph that crops squares of `short_side_px` without resizing them.

    The results are unchanged, because the resize does not change such images.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    resize_nodes, others = split_nodes(result.graph)
    for node in resize_nodes:
        node.output[:] = [RESIZED if name == CROPS else name for name in node.output]
    resize = onnx.helper.make_graph(
        resize_nodes, "resize", [], [_describe_crops(RESIZED, preprocessing)]
    )
    branch = onnx.helper.make_node(
        "If",
        ["has_size"],
        [CROPS],
        then_branch=_make_crop_graph(preprocessing),
        else_branch=resize,
    )
    first = next(index for index, node in enumerate(others) if CROPS in node.input)
    comparison = _compare_size(preprocessing, result.graph)
    del result.graph.node[:]
    result.graph.node.extend([*others[:first], *comparison, branch, *others[first:]])
    return result


def _compare_size(preprocessing: Preprocessing, graph: GraphProto) -> list[NodeProto]:
    """Return nodes that compute `has_size`: True if the images are squares of the short side.

    Their constant is added to `graph`.
    """
    from onnx import TensorProto, helper

    graph.initializer.append(
        helper.make_tensor("square", TensorProto.INT64, [2], [preprocessing.short_side_px] * 2)
    )
    return [
        helper.make_node("Shape", [INPUT], ["sides"], start=1, end=3),
        helper.make_node("Equal", ["sides", "square"], ["same"]),
        helper.make_node("Cast", ["same"], ["same_number"], to=TensorProto.INT32),
        helper.make_node("ReduceMin", ["same_number"], ["all_same"], keepdims=0),
        helper.make_node("Cast", ["all_same"], ["has_size"], to=TensorProto.BOOL),
    ]


def _make_crop_graph(preprocessing: Preprocessing) -> GraphProto:
    """Return a graph that crops the centers of square images."""
    from onnx import TensorProto, helper

    begin, end = preprocessing.center_crop_bounds
    slices = {"begins": [begin] * 2, "ends": [end] * 2, "axes": [1, 2]}
    return helper.make_graph(
        [helper.make_node("Slice", [INPUT, *slices], ["middle"])],
        "crop",
        [],
        [_describe_crops("middle", preprocessing)],
        [
            helper.make_tensor(name, TensorProto.INT64, [2], values)
            for name, values in slices.items()
        ],
    )


def _describe_crops(name: str, preprocessing: Preprocessing) -> ValueInfoProto:
    from onnx import TensorProto, helper

    side = preprocessing.image_size
    return helper.make_tensor_value_info(name, TensorProto.UINT8, [None, side, side, 3])
