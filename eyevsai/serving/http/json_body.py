"""JSON bodies of clients, with limits that hold before memory is spent on them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from eyevsai.serving.http.errors import RequestError

T = TypeVar("T")

MAX_DEPTH = 16  # an image as nested lists in a table has 7 levels
MAX_CONTAINERS = 3_000_000  # lists and objects: one per pixel of an image as nested lists
INLINE_BYTES = 256 * 1024  # bodies up to this size are parsed on the event loop
SHOWN = 80  # characters of a value in a message

# possessive: otherwise each character of a text would take 115 bytes to go back to
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_OPEN, _CLOSE = b"[{", b"]}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_OPEN + _CLOSE))


def parse_json(body: bytes, *, allows_nan: bool = False) -> Any:
    """Return the value of a JSON body in UTF-8, UTF-16 or UTF-32.

    Args:
        body: content.
        allows_nan: accept NaN and Infinity, as Python's encoder writes them.

    Raises:
        RequestError: it is not JSON, or nests too deep, or has too many lists (400).
    """
    try:
        text = body.decode(json.detect_encoding(body))
    except UnicodeDecodeError:
        raise _not_json("it is not text in UTF-8") from None
    _check_structure(body if body.isascii() else text.encode())
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_constant=None if allows_nan else _fail)
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # numbers of thousands of digits
        raise _not_json(str(error)) from None
    except RecursionError:  # brackets that the check counted as parts of a broken string
        raise _too_deep() from None


async def parse_body(parse: Callable[[bytes], T], body: bytes) -> T:
    """Return `parse(body)`; for large bodies it runs in another thread."""
    if len(body) <= INLINE_BYTES:
        return parse(body)
    return await asyncio.to_thread(parse, body)


def _check_structure(body: bytes) -> None:
    """Check depth and number of lists and objects before they are made."""
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise RequestError(
            400,
            f"The JSON has more than {MAX_CONTAINERS:,} lists. Send images as base64 of a file.",
            reason="json",
        )
    if len(brackets) > MAX_DEPTH:
        codes = np.frombuffer(brackets, np.uint8)
        steps = np.where(np.isin(codes, np.frombuffer(_OPEN, np.uint8)), 1, -1)
        if steps.cumsum(dtype=np.int32).max() > MAX_DEPTH:
            raise _too_deep()


def _too_deep() -> RequestError:
    return RequestError(
        400, f"The JSON is nested more than {MAX_DEPTH} levels deep.", reason="json"
    )


def _not_json(reason: str) -> RequestError:
    return RequestError(400, f"The body is not valid JSON: {reason}.", reason="json")


def _fail(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
