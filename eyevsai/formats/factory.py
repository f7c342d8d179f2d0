"""The table of export formats. All that differs between them is reached through it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from eyevsai.core.names import choose, choose_listed

if TYPE_CHECKING:
    from eyevsai.formats.base import Format

FORMATS = {
    "onnx": "eyevsai.formats.onnx:Onnx",
    "onnx-int8": "eyevsai.formats.onnx_int8:OnnxInt8",
    "openvino": "eyevsai.formats.openvino:OpenVino",
    "openvino-bf16": "eyevsai.formats.openvino:OpenVinoBfloat16",
    "pytorch": "eyevsai.formats.pytorch:PyTorch",
    "pt2": "eyevsai.formats.pt2:Pt2",
    "torchscript": "eyevsai.formats.torchscript:TorchScript",
    "tensorflow": "eyevsai.formats.tensorflow:TensorFlow",
    "tensorrt": "eyevsai.formats.tensorrt:TensorRt",
}
ALL = "all"
PASSED, REFUSED = "passed", "refused"  # how the version of a model fares in one
EXPORTS = "exports"  # where a run keeps them, a folder for each format


def get_format(name: str) -> Format:
    """The format of this name.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    module, _, cls = FORMATS[choose("format", name, FORMATS)].partition(":")
    found: Format = getattr(import_module(module), cls)()
    return found


def is_all(text: str) -> bool:
    """Whether `all` is among the formats that were asked for."""
    return ALL in _parts(text)


def parse_formats(text: str) -> list[str]:
    """The formats that `onnx,openvino` or `all` names, each once, in the order of the table.

    Raises:
        UserError: one is not known.
    """
    wanted: Iterable[str] = FORMATS if is_all(text) else choose_listed("format", text, FORMATS)
    return [name for name in FORMATS if name in wanted]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
