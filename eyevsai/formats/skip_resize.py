"""A way past an ONNX graph's resize, for images that have the size already: it costs more than a
small network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eyevsai.data.preprocessing import Preprocessing
from eyevsai.formats.tracing import CROPS, INPUT, split_nodes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

WHOLE = "resized_crops"


def add_resize_skip(model: ModelProto, preprocessing: Preprocessing) -> ModelProto:
    """The same graph, in which squares of `short_side_px` are cropped at once. It says of them what
    it said before.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    inside, others = split_nodes(found.graph)
    for node in inside:
        node.output[:] = [WHOLE if name == CROPS else name for name in node.output]
    resize = onnx.helper.make_graph(inside, "resize", [], [_crops(WHOLE, preprocessing)])
    choose = onnx.helper.make_node(
        "If", ["has_size"], [CROPS], then_branch=_crop(preprocessing), else_branch=resize
    )
    first = next(place for place, node in enumerate(others) if CROPS in node.input)
    del found.graph.node[:]
    found.graph.node.extend(
        [*others[:first], *_has_size(preprocessing, found.graph), choose, *others[first:]]
    )
    return found


def _has_size(preprocessing: Preprocessing, graph: GraphProto) -> list[NodeProto]:
    """Nodes that compute `has_size`: whether images are squares of the short side."""
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


def _crop(preprocessing: Preprocessing) -> GraphProto:
    """The middle of squares."""
    from onnx import TensorProto, helper

    begin, end = preprocessing.center_crop_bounds
    numbers = {"begins": [begin] * 2, "ends": [end] * 2, "axes": [1, 2]}
    return helper.make_graph(
        [helper.make_node("Slice", [INPUT, *numbers], ["middle"])],
        "crop",
        [],
        [_crops("middle", preprocessing)],
        [
            helper.make_tensor(name, TensorProto.INT64, [2], values)
            for name, values in numbers.items()
        ],
    )


def _crops(name: str, preprocessing: Preprocessing) -> ValueInfoProto:
    from onnx import TensorProto, helper

    side = preprocessing.image_size
    return helper.make_tensor_value_info(name, TensorProto.UINT8, [None, side, side, 3])
