"""Tensors of the Open Inference Protocol v2: parsing of requests, rendering of responses."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.json_body import SHOWN, parse_json
from eyevsai.serving.images import COLUMN, TEXTS, decode_base64, find_types

if TYPE_CHECKING:
    from eyevsai.serving.http.answers import Answer

LABEL, PROBABILITIES = "label", "probabilities"
OUTPUTS = (LABEL, PROBABILITIES)
CONTENT_TYPES = (None, "base64", "pillow_image")  # MLServer's names: both are base64 of a file
# parameters of Triton that change the meaning of a request
UNSUPPORTED = (
    *("classification", "shared_memory_region", "shared_memory_byte_size"),
    *("sequence_id", "sequence_start", "sequence_end"),
)


@dataclass(frozen=True)
class InferRequest:
    """Inference request.

    Attributes:
        id: id of the client, which is returned; None without one.
        cells: images: bytes of files, base64 texts, or arrays H,W,3 uint8.
        outputs: names of the outputs in the order of the response.
        binary: names of the outputs that are returned as binary data.
    """

    id: str | None
    cells: list[Any]
    outputs: tuple[str, ...]
    binary: frozenset[str]


def parse_infer(body: bytes, header_length: str | None) -> InferRequest:
    """Return the request in a body.

    Args:
        body: JSON, followed by the binary data of the tensors.
        header_length: length of the JSON in bytes, as text; None if there is no binary data.

    Raises:
        RequestError: it does not follow the protocol (400).
    """
    end = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or int(header_length) > end:
            raise _bad(f"Inference-Header-Content-Length {header_length[:SHOWN]!r} is not valid.")
        end = int(header_length)
    request = parse_json(body[:end])
    if not isinstance(request, dict):
        raise _bad("The request must be an object with the field inputs.")
    parameters = _parameters_of(request, "The request")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _bad(f"The field inputs must be a list of one tensor, {COLUMN!r}.")
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise _bad("The field id must be text.")
    outputs, binary = _read_outputs(request.get("outputs"), parameters)
    return InferRequest(request_id, _read_images(inputs[0], body[end:]), outputs, binary)


def render_infer(
    request: InferRequest,
    answers: Sequence[Answer],
    name: str,
    version: str,
    classes: Sequence[str],
) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON if binary data follows.

    Args:
        request: the request.
        answers: answers for its images.
        name, version: model that answered.
        classes: class names, in the order of the second axis of `probabilities`.
    """
    labels = [answer.best for answer in answers]
    rows = np.array([answer.row for answer in answers], np.float32).reshape(-1, len(classes))
    tensors: dict[str, tuple[str, list[int], list[Any]]] = {
        LABEL: ("BYTES", [len(labels)], labels),
        PROBABILITIES: ("FP32", list(rows.shape), rows.ravel().tolist()),
    }
    outputs, chunks = [], []
    for output in request.outputs:
        datatype, shape, data = tensors[output]
        tensor: dict[str, Any] = {"name": output, "datatype": datatype, "shape": shape}
        if output in request.binary:
            content = _pack(labels) if output == LABEL else rows.astype("<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": len(content)}
            chunks.append(content)
        else:
            tensor["data"] = data
        outputs.append(tensor)
    response: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not None:
        response["id"] = request.id
    response |= {"parameters": {"classes": list(classes)}, "outputs": outputs}
    header = json.dumps(response, ensure_ascii=False).encode()
    return b"".join([header, *chunks]), len(header) if chunks else None


def _read_outputs(
    outputs: Any, parameters: dict[str, Any]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the names of the outputs, and those of them that are returned as binary data."""
    by_default = parameters.get("binary_data_output") is True
    if outputs is None or outputs == []:
        return OUTPUTS, frozenset(OUTPUTS if by_default else ())
    if not isinstance(outputs, list):
        raise _bad("The field outputs must be a list.")
    names, binary = [], set()
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS or name in names:
            raise _bad(f"Each of the outputs must be another one of {', '.join(OUTPUTS)}.")
        names.append(name)
        if _parameters_of(output, f"The output {name}").get("binary_data", by_default) is True:
            binary.add(name)
    return tuple(names), frozenset(binary)


def _read_images(tensor: dict[str, Any], binary: bytes) -> list[Any]:
    """Return the images of the input tensor."""
    parameters = _parameters_of(tensor, "The input")
    shape = _read_shape(tensor)
    if tensor.get("name") != COLUMN:
        raise _bad(f"The input must be called {COLUMN!r}, not {str(tensor.get('name'))[:SHOWN]!r}.")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise _bad(f"binary_data_size is {str(size)[:SHOWN]}, but {len(binary)} bytes follow.")
    if (size is None) != ("data" in tensor) or (size is None and binary):
        raise _bad("The input needs either the field data or the parameter binary_data_size.")
    match tensor.get("datatype"):
        case "BYTES":
            return _read_files(tensor, shape, parameters, None if size is None else binary)
        case "UINT8":
            return _read_pixels(tensor, shape, None if size is None else binary)
        case other:
            raise _bad(f"The datatype must be BYTES or UINT8, not {str(other)[:SHOWN]!r}.")


def _read_shape(tensor: dict[str, Any]) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= 4
        or not all(type(size) is int and 0 <= size < 2**31 for size in shape)
    ):
        raise _bad("The field shape must be a list of 1 to 4 whole numbers.")
    return tuple(shape)


def _read_files(
    tensor: dict[str, Any],
    shape: tuple[int, ...],
    parameters: dict[str, Any],
    binary: bytes | None,
) -> list[Any]:
    """Return image files: base64 texts, or bytes from binary data."""
    content_type = parameters.get("content_type")
    if content_type not in CONTENT_TYPES:
        raise _bad("The content_type of a BYTES input must be base64.")
    if shape[1:] not in ((), (1,)):
        raise _bad(f"A BYTES input has the shape [N] or [N, 1], not {list(shape)}.")
    if binary is None:
        files = _flatten(tensor["data"])
        if not all(isinstance(each, str) for each in files):
            raise _bad("The data of a BYTES input must be base64 texts.")
    else:
        files = _unpack(binary)
        if content_type is not None:
            files = [_decode_text(each) for each in files]
    if len(files) != shape[0]:
        raise _bad(f"The shape is {list(shape)}, but the input has {len(files)} elements.")
    return files


def _read_pixels(tensor: dict[str, Any], shape: tuple[int, ...], binary: bytes | None) -> list[Any]:
    """Return images H,W,3 uint8 of a tensor H,W,3 or N,H,W,3."""
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape[-3:]:
        raise _bad(f"A UINT8 input has the shape [N, H, W, 3] or [H, W, 3], not {list(shape)}.")
    count = math.prod(shape)
    if binary is not None:
        if len(binary) != count:
            raise _bad(f"The shape {list(shape)} needs {count} bytes; {len(binary)} follow.")
        # a copy, because torch warns of arrays that cannot be written
        return list(np.frombuffer(bytearray(binary), np.uint8).reshape(-1, *shape[-3:]))
    if TEXTS & find_types(tensor["data"]):
        raise _bad("The data of a UINT8 input must be whole numbers from 0 to 255.")
    try:
        values = np.array(tensor["data"])
    except (ValueError, OverflowError):
        raise _bad("The data of the input are lists of unequal lengths.") from None
    if values.size != count:
        raise _bad(f"The shape {list(shape)} needs {count} values; data has {values.size}.")
    if count and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise _bad("The data of a UINT8 input must be whole numbers from 0 to 255.")
    return list(values.astype(np.uint8).reshape(-1, *shape[-3:]))


def _flatten(data: Any) -> list[Any]:
    """Return the elements of a list, or of lists of one element each."""
    if not isinstance(data, list):
        raise _bad("The field data must be a list.")
    return [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]


def _pack(texts: Sequence[str]) -> bytes:
    """Return BYTES as binary data: for each element its length (uint32, little-endian), content."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def _unpack(binary: bytes) -> list[bytes]:
    """Return the elements of BYTES from binary data; see `_pack`."""
    elements, position = [], 0
    while position < len(binary):
        start = position + 4
        size = int.from_bytes(binary[position:start], "little")
        if start + size > len(binary):
            raise _bad("The binary data of the input end within an element.")
        elements.append(binary[start : start + size])
        position = start + size
    return elements


def _decode_text(text: bytes) -> bytes:
    content = decode_base64(text.decode("latin-1"))
    if content is None:
        raise _bad("An element of the input is not base64, as its content_type demands.")
    return content


def _parameters_of(holder: dict[str, Any], title: str) -> dict[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _bad(f"{title} has parameters that are not an object.")
    for name in UNSUPPORTED:
        if name in parameters:
            raise _bad(f"{title} has the parameter {name}, which this server does not support.")
    return parameters


def _bad(message: str) -> RequestError:
    return RequestError(400, message, reason="json")
