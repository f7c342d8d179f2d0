"""Opset and IR version of ONNX files, and the oldest ONNX Runtime that opens them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

STANDARD = ""  # the domain ai.onnx
# releases of ONNX Runtime that were the first to support an opset or IR version, with the highest
# opset and IR version that they support: https://onnxruntime.ai/docs/reference/compatibility.html
RELEASES = (
    ("1.3", 12, 7),
    ("1.6", 13, 7),
    ("1.8", 14, 7),
    ("1.9", 15, 8),
    ("1.11", 16, 8),
    ("1.12", 17, 8),
    ("1.14", 18, 8),
    ("1.15", 19, 8),
    ("1.16", 19, 9),
    ("1.17", 20, 9),
    ("1.18", 21, 10),
)


def save_onnx(model: ModelProto, path: Path) -> None:
    """Write an ONNX file that declares the lowest opset and IR version that hold its graph.

    Runtimes refuse files whose versions are newer than their own, although they may support all
    operators in it.
    """
    import onnx

    _lower_opsets(model)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    onnx.save(model, path)


def describe_versions(path: Path) -> dict[str, Any]:
    """Return opset, IR version and oldest ONNX Runtime of a file, as fields of the manifest."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    opset = next(each.version for each in model.opset_import if each.domain == STANDARD)
    return {
        "opset": opset,
        "ir_version": model.ir_version,
        "min_onnxruntime": find_release(opset, model.ir_version),
    }


def find_release(opset: int, ir_version: int) -> str:
    """Return the oldest release of ONNX Runtime that supports an opset and an IR version.

    Raises:
        ValueError: no release in `RELEASES` does.
    """
    for release, highest_opset, highest_ir_version in RELEASES:
        if opset <= highest_opset and ir_version <= highest_ir_version:
            return release
    raise ValueError(f"no known release supports opset {opset} with IR version {ir_version}")


def _lower_opsets(model: ModelProto) -> None:
    """Declare for each domain the version since which all its nodes are defined as they are.

    Domains without nodes are removed; those that onnx does not know keep their version.
    """
    import onnx

    declared = {each.domain: each.version for each in model.opset_import}
    needed = dict[str, int]()
    for node in _list_nodes(model.graph.node):
        version = declared[node.domain]
        if onnx.defs.has(node.op_type, version, node.domain):
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
            version = schema.since_version
        needed[node.domain] = max(version, needed.get(node.domain, 1))
    del model.opset_import[:]
    model.opset_import.extend(
        onnx.helper.make_opsetid(domain, version) for domain, version in sorted(needed.items())
    )


def _list_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _list_nodes(graph.node)
