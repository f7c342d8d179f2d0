"""From a file's bytes to one RGB array, the same for whoever asks."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from eyevsai.core.errors import UserError

VERSION = 2  # goes into the key of the pixel cache: raise it when any decoded pixel changes
MAX_PIXELS = 89_000_000
STRIP_PIXELS = 1_000_000  # converted at a time
SAMPLED = 1_000_000  # values of which the typical one is taken

# Pillow warns of what it mends or guesses in damaged files; what cannot be used is said by an
# error.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

Array = npt.NDArray[np.uint8]

# Formats of pixels. Others of Pillow's start programs (EPS), or take any file for theirs.
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "DIB",
    "GIF",
    "WEBP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "MPO",
    "ICO",
    "ICNS",
    "TGA",
    "PCX",
    "DDS",
    "PSD",
    "QOI",
    "SGI",
    "HEIF",
)
ORIENTATION = 0x0112  # the tag of EXIF
PHOTOMETRIC = 0x0106  # the tag of TIFF, of which 0 means that 0 is white
ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Depth:
    """The values that are white in images with more than 8 bits: of whole numbers, and of
    floating-point numbers.
    """

    integer_top: float = 65535.0
    float_top: float = 1.0


@dataclass(frozen=True)
class Range:
    """The largest value of an image with more than 8 bits, as it is in the file; 0 for an image of
    8 bits.

    `is_float` is true for floating-point numbers, of which `typical` is the 99.5th percentile of
    the finite ones. `low` is the smallest value, or 0: what lies below becomes black.
    """

    top: float = 0.0
    is_float: bool = False
    typical: float = 0.0
    low: float = 0.0


@dataclass(frozen=True)
class Decoded:
    """A decoded image: H,W,3 uint8, the format of its content, such as JPEG, and its range.

    `levels` is the SHA-256 of the values of an image with more than 8 bits, before they are scaled;
    else empty.
    """

    pixels: Array
    kind: str
    range: Range
    levels: str = ""


class ImageDecodeError(UserError):
    """A file that is no image, or one that is torn or too large."""


def decode(source: Path | bytes, depth: Depth | None = None) -> Array:
    """The first frame of an image as H,W,3 uint8 RGB: turned as EXIF says, alpha over white.

    Images with more than 8 bits are scaled by `depth`; without it, each by its own largest value.

    Raises:
        ImageDecodeError: naming the file and the reason.
    """
    return decode_fully(source, depth).pixels


def decode_fully(source: Path | bytes, depth: Depth | None = None) -> Decoded:
    """What `decode` gives, with the format and the range of the image."""
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with _open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageDecodeError(
                    f"{name} has {image.width} x {image.height} pixels; the limit is 89 million."
                )
            turned = _apply_orientation(image)
            found, levels = _measure(turned)
            pixels = _to_rgb(turned, found, depth)
            if levels and _is_white_zero(image):
                np.subtract(255, pixels, out=pixels)
            return Decoded(pixels, image.format or "", found, levels)
    except ImageDecodeError:
        raise
    except Image.DecompressionBombError as error:  # Pillow refuses still larger ones before we can
        raise ImageDecodeError(
            f"{name} has too many pixels; the limit is 89 million ({error})."
        ) from None
    except UnidentifiedImageError:
        raise ImageDecodeError(f"{name} is not an image in a known format.") from None
    except Exception as error:  # Pillow's decoders raise of every kind on hostile bytes
        raise ImageDecodeError(f"{name} cannot be decoded: {error}") from error


def identify(path: Path) -> str:
    """The format of a file by its first bytes, such as JPEG; empty where it is no image. Nothing is
    decoded.
    """
    try:
        with _open(path) as image:
            return image.format or ""
    except Exception:  # as above
        return ""


def _open(source: Path | bytes) -> Image.Image:
    return Image.open(
        io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()
    )


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_white_zero(image: Image.Image) -> bool:
    """Return True for a TIFF file in which 0 is white; Pillow turns those of 8 bits itself."""
    return getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0


def _apply_orientation(image: Image.Image) -> Image.Image:
    """The image as its EXIF tag of orientation says, whatever else in its EXIF block is broken."""
    image.load()
    turn = ROTATIONS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        value: Any = image.getexif().get(ORIENTATION, 1)
        return int(value)
    except Exception:  # a broken block has errors of every kind; other tags are of no matter
        return 1


def _measure(image: Image.Image) -> tuple[Range, str]:
    """The range of an image, and the SHA-256 of its values if it has more than 8 bits."""
    is_float = image.mode == "F"
    if not is_float and not image.mode.startswith("I"):
        return Range(), ""
    digest, top, low = hashlib.sha256(f"{image.mode} {image.size}".encode()), 0.0, 0.0
    every = max(1, image.width * image.height // SAMPLED)
    sampled = []
    for _, strip in _strips(image):
        levels = np.ascontiguousarray(strip).ravel()
        digest.update(levels.data)
        finite = levels[np.isfinite(levels)] if is_float else levels
        top, low = max(top, float(finite.max(initial=0))), min(low, float(finite.min(initial=0)))
        if is_float:
            sampled.append(finite[::every])
    values = np.concatenate(sampled) if sampled else np.zeros(0)
    typical = float(np.percentile(values, 99.5)) if values.size else 0.0
    return Range(top, is_float, typical, low), digest.hexdigest()


def _to_rgb(image: Image.Image, found: Range, depth: Depth | None) -> Array:
    if image.mode.startswith("I") or image.mode == "F":
        convert = _deep_grey(_white(found, depth))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        convert = _over_white
    else:
        convert = _plain
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top, strip in _strips(image):
        rgb[top : top + strip.height] = convert(strip)
    return rgb


def _white(found: Range, depth: Depth | None) -> float:
    """The value of white: that of the depth, or one that suits the image alone."""
    if depth is not None:
        return depth.float_top if found.is_float else depth.integer_top
    return (
        find_depth([found]).float_top if found.is_float else 65535.0 if found.top > 255 else 255.0
    )


BITS = (8, 10, 12, 14, 16)
OVERSHOOT = 1.01  # of floating-point numbers beyond their range, by interpolation: they are clipped


def find_depth(ranges: Iterable[Range]) -> Depth:
    """The range of a dataset: the smallest of 8 to 16 bits, or for floats of 1 and those, that
    holds its values.
    """
    found = list(ranges)
    integers = [each.top for each in found if not each.is_float and each.top > 0]
    floats = [each.typical for each in found if each.is_float and each.typical > 0]
    return Depth(
        _top_of(max(integers)) if integers else 65535.0,
        1.0 if not floats or max(floats) <= OVERSHOOT else _top_of(max(floats) / OVERSHOOT),
    )


def named_depth(name: str) -> Depth:
    """The depth that `--bit-depth` names: a number of bits, `float1` or `float255`."""
    if name.startswith("float"):
        return Depth(float_top=float(name.removeprefix("float")))
    top = float(2 ** int(name) - 1)
    return Depth(integer_top=top)


def _top_of(value: float) -> float:
    return next((float(2**bits - 1) for bits in BITS if value <= 2**bits - 1), float(value))


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in parts of full width, each with where it begins: a large one is never copied as a
    whole.
    """
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _plain(strip: Image.Image) -> Array:
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _over_white(strip: Image.Image) -> Array:
    rgba = strip.convert("RGBA")
    return _plain(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))


def _deep_grey(white: float) -> Callable[[Image.Image], Array]:
    """Greys of more than 8 bits, scaled to 8; Pillow's own conversion would clip them to white."""

    def convert(strip: Image.Image) -> Array:
        """Return greys of 8 bits (H,W,1 uint8) of a strip."""
        levels = np.nan_to_num(
            np.asarray(strip).astype(np.float64), nan=0.0, posinf=white, neginf=0.0
        )
        return np.clip(np.round(levels * (255.0 / white)), 0, 255).astype(np.uint8)[:, :, None]

    return convert
