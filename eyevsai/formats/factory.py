"""Registry of export formats, and the parsing of format lists."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose, choose_listed
from eyevsai.formats.other_formats import explain_format

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
PASSED, REFUSED = "passed", "refused"  # results of the parity check of an export


def get_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        UserError: the name is unknown; the message suggests the nearest one.
    """
    module, _, cls = FORMATS[choose("format", name, FORMATS)].partition(":")
    format_: Format = getattr(import_module(module), cls)()
    return format_


def is_all(text: str) -> bool:
    """Return True if a comma-separated list of formats contains `all`."""
    return ALL in _split(text)


def parse_formats(text: str) -> list[str]:
    """Return the formats in a comma-separated list, each once, in the order of `FORMATS`.

    A list that contains `all` stands for all formats.

    Raises:
        UserError: a name is unknown, or the list is empty; the message names the format that
            serves in place of another tool's.
    """
    for name in _split(text):
        if name not in (*FORMATS, ALL) and (explanation := explain_format(name, (*FORMATS, ALL))):
            raise UserError(f"There is no format {name!r}. {explanation}")
    names: Iterable[str] = FORMATS if is_all(text) else choose_listed("format", text, FORMATS)
    return [name for name in FORMATS if name in names]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
