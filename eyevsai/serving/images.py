"""Images as other programs pass them: paths, bytes, base64, arrays and nested lists."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.core.paths import is_file, path_error
from eyevsai.data.decode import MAX_PIXELS, Depth, ImageDecodeError, ImageSizeError, decode

Image = str | Path | bytes | npt.NDArray[np.uint8]

SHOWN = 80  # characters of a cell in a message
MAX_PATH = 4096  # bytes of a path on Linux
COLUMN = "image"
TEXTS = frozenset({str, bytes, np.str_, np.bytes_})
IMAGE_FORMATS = "An image must be base64, or H lists of W lists of 3 whole numbers from 0 to 255"

# ASCII whitespace, as `base64` and MIME break lines, and the mark that Windows puts before a text
_SPACE = re.compile(r"[ \t\r\n\f\v\ufeff]+")
_DATA_URL = re.compile(r"[\s\ufeff]*data:(?P<type>[^,]*),", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")


def decode_image(
    image: Image, depth: Depth | None = None, *, max_pixels: int | None = None
) -> npt.NDArray[np.uint8]:
    """Return an image as H,W,3 uint8 RGB.

    Args:
        image: a path, the bytes of a file, or H,W,3 uint8 RGB, which is returned unchanged.
        depth: value range of images with more than 8 bits; None scales each by its own values.
        max_pixels: largest number of pixels; None for that of `decode`, which limits files only.

    Raises:
        UserError: the file does not exist or cannot be decoded, or the image has another type,
            shape or dtype. An ImageSizeError if it has too many pixels.
    """
    if isinstance(image, bytes):
        return decode(image, depth, max_pixels=max_pixels or MAX_PIXELS)
    if isinstance(image, str | Path):
        if not is_file(image):
            raise path_error(image) or UserError(f"There is no image file {image}.")
        return decode(Path(image), depth, max_pixels=max_pixels or MAX_PIXELS)
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.shape[2:] != (3,)
        or not image.size
    ):
        shape = (
            f"{image.dtype} {image.shape}"
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise UserError(f"An image must be a path, bytes, or H,W,3 uint8, not {shape}.")
    height, width = image.shape[:2]
    if max_pixels is not None and height * width > max_pixels:
        raise ImageSizeError(
            "The image",
            f"has {width} x {height} pixels; the limit is {max_pixels / 1e6:.3g} million.",
        )
    return image


def decode_cell(
    cell: Any,
    depth: Depth | None = None,
    *,
    paths: bool = False,
    max_pixels: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the image in a cell of a table as H,W,3 uint8 RGB.

    A text is a path if `paths` is True and a file of this name exists; otherwise it is base64.
    Bytes are the content of an image file, or else base64.

    Args:
        cell: text, bytes, an array H,W,3 uint8, nested lists of its values, or a `Path`.
        depth: value range of images with more than 8 bits; None scales each by its own values.
        paths: read files. False for cells of unknown clients, who could read files of this machine.
        max_pixels: as in `decode_image`.

    Raises:
        UserError: the cell contains no image.
    """
    image = read_cell(cell, paths=paths)
    try:
        return decode_image(image, depth, max_pixels=max_pixels)
    except ImageDecodeError as error:
        if not isinstance(image, bytes) or isinstance(error, ImageSizeError):
            raise
        if isinstance(cell, str):
            raise UserError(
                f"{error} It was read as base64: {cell[:SHOWN]!r}. {_path_hint(cell, paths)}"
            ) from error
        if (content := decode_base64(image.decode("latin-1"))) is None:
            raise
    return decode_image(content, depth, max_pixels=max_pixels)


def read_cell(cell: Any, *, paths: bool = False) -> Image:
    """Return the image in a cell of a table without decoding it; see `decode_cell`."""
    if isinstance(cell, np.ndarray | np.generic):
        cell = _unwrap(cell)
    if isinstance(cell, list | tuple):
        return _read_lists(cell)
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if isinstance(cell, np.ndarray) or (isinstance(cell, Path) and paths):
        return cell
    if not isinstance(cell, str):
        raise UserError(f"{IMAGE_FORMATS}, not {json.dumps(cell, default=repr)[:SHOWN]}.")
    if paths and _could_be_path(cell) and is_file(cell):
        return Path(cell)
    content = decode_base64(cell)
    if content is None:
        raise UserError(f"The image {cell[:SHOWN]!r} is not base64. {_path_hint(cell, paths)}")
    return content


def _could_be_path(text: str) -> bool:
    return len(text) <= MAX_PATH and not _DATA_URL.match(text)


def _path_hint(text: str, paths: bool) -> str:
    """Return the reason, as a sentence, why a text that is no image was not read as a path."""
    if not paths:
        return "A served model does not accept paths."
    error = path_error(text) if _could_be_path(text) else None
    return str(error) if error else "There is no such file either."


def decode_base64(text: str) -> bytes | None:
    """Return the bytes of a text in base64; None if it is empty or not base64.

    Line breaks and spaces, missing padding, the URL-safe alphabet and a data URL
    (`data:image/png;base64,...`) are accepted.
    """
    if (url := _DATA_URL.match(text)) is not None:
        if not url["type"].lower().rstrip().endswith(";base64"):
            return None
        text = unquote(text[url.end() :])
    digits = _SPACE.sub("", text).translate(_URL_SAFE)
    unpadded = digits.rstrip("=")
    if not unpadded or len(digits) - len(unpadded) > 2:
        return None
    try:
        return base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), validate=True)
    except ValueError:  # not only binascii.Error: non-ASCII text raises ValueError itself
        return None


def _unwrap(cell: npt.NDArray[Any] | np.generic) -> Any:
    """Return an array of pixels as it is, and the Python value in any other array or scalar."""
    if cell.dtype == np.uint8 and cell.ndim == 1:  # the bytes of a file, as numpy.fromfile returns
        return cell.tobytes()
    return cell.tolist() if cell.ndim == 0 or cell.dtype.kind in "OSU" else cell


def find_types(values: Any) -> set[type]:
    """Return the types of the values in nested lists; `list` if they have unequal lengths.

    Check it before an array is made: in an array of texts, each takes the memory of the longest.
    """
    try:
        return set(map(type, np.asarray(values, dtype=object).ravel().tolist()))
    except ValueError:  # of arrays with other shapes
        return {list}


def _read_lists(cell: Any) -> npt.NDArray[np.uint8]:
    if TEXTS & find_types(cell):
        # MLflow parses {"inputs": {"image": [...]}} to one cell with all images
        if any(isinstance(each, str) for each in cell):
            raise UserError(
                f"{IMAGE_FORMATS}, not a list of strings. Send each image as a record: "
                f'{{"dataframe_records": [{{"{COLUMN}": ...}}, ...]}}.'
            )
        raise UserError(f"{IMAGE_FORMATS}, not lists of other values.")
    try:
        values = np.asarray(cell)
        if values.dtype.kind == "O":  # arrays of arrays, as Parquet stores lists
            values = np.asarray(_to_lists(cell))
    except ValueError:
        raise UserError(f"{IMAGE_FORMATS}, not lists of unequal lengths.") from None
    if values.dtype.kind not in "iuf" and values.size:
        raise UserError(f"{IMAGE_FORMATS}, not lists of other values.")
    if values.shape[2:] != (3,) or not values.size:
        raise UserError(f"{IMAGE_FORMATS}, not lists of shape {values.shape}.")
    if len(wrong := values[(values < 0) | (values > 255) | (values != np.floor(values))]):
        raise UserError(f"{IMAGE_FORMATS}, not {wrong[0]}.")
    return values.astype(np.uint8)


def _to_lists(values: Any) -> Any:
    """Return nested lists of the values in nested lists and arrays."""
    if isinstance(values, list | tuple | np.ndarray):
        return [_to_lists(each) for each in values]
    return values
