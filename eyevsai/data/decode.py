"""Decoding of image files to RGB arrays, identical for training, evaluation and serving."""

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

VERSION = 2  # part of the key of the pixel cache: increase it when any decoded pixel changes
MAX_PIXELS = 89_000_000
STRIP_PIXELS = 1_000_000  # converted at a time
MAX_SAMPLES = 1_000_000  # approximate number of values for the percentile of an image

# Pillow warns about damaged files that it repairs or guesses; unusable files raise an error anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

Array = npt.NDArray[np.uint8]

# Raster formats. Pillow's other decoders start external programs (EPS) or accept any file.
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
ORIENTATION = 0x0112  # EXIF tag
PHOTOMETRIC = 0x0106  # TIFF tag; value 0 (WhiteIsZero) means that 0 is white
# values of the EXIF orientation tag that need a transposition
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
    """White levels of images with more than 8 bits.

    Attributes:
        integer_top: value of white in images with integer values.
        float_top: value of white in images with floating-point values.
    """

    integer_top: float = 65535.0
    float_top: float = 1.0


@dataclass(frozen=True)
class Range:
    """Range of the values in an image with more than 8 bits; all zero for an 8-bit image.

    Attributes:
        top: largest finite value in the file, at least 0.
        is_float: True for floating-point values.
        typical: 99.5th percentile of the finite floating-point values; 0 for integers.
        low: smallest finite value in the file, at most 0; values below 0 are clipped to black.
    """

    top: float = 0.0
    is_float: bool = False
    typical: float = 0.0
    low: float = 0.0


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: H,W,3 uint8 RGB.
        kind: format of the file's content, such as JPEG.
        range: range of the values in the file.
        levels: SHA-256 of the unscaled values of an image with more than 8 bits; empty for 8 bits.
    """

    pixels: Array
    kind: str
    range: Range
    levels: str = ""


class ImageDecodeError(UserError):
    """The file is not an image, is damaged, or has too many pixels.

    `reason` is the message without its subject, the name of the file.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.reason = reason

    def __str__(self) -> str:
        return " ".join(self.args)


class ImageSizeError(ImageDecodeError):
    """The image has more pixels than allowed; they were not decoded."""


def decode(
    source: Path | bytes, depth: Depth | None = None, *, max_pixels: int = MAX_PIXELS
) -> Array:
    """Return the first frame of an image as H,W,3 uint8 RGB.

    The EXIF orientation is applied, and transparency is composited over white. Images with more
    than 8 bits are scaled so that the white level of `depth` becomes 255; without `depth`, the
    white level of each image is derived from its own range.

    Args:
        source: path or content of an image file.
        depth: white levels of images with more than 8 bits.
        max_pixels: largest product of width and height, at most `MAX_PIXELS`.

    Raises:
        ImageDecodeError: the image cannot be decoded; the message has the file and the reason. It
            is an ImageSizeError for an image with too many pixels.
    """
    return decode_fully(source, depth, max_pixels=max_pixels).pixels


def decode_fully(
    source: Path | bytes, depth: Depth | None = None, *, max_pixels: int = MAX_PIXELS
) -> Decoded:
    """Return the pixels as `decode` does, with the format and the range of the image."""
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with _open(source) as image:
            if image.width * image.height > max_pixels:
                raise ImageSizeError(
                    name,
                    f"has {image.width} x {image.height} pixels; the limit is "
                    f"{max_pixels / 1e6:.3g} million.",
                )
            upright = _apply_orientation(image)
            value_range, levels = _measure(upright)
            pixels = _to_rgb(upright, value_range, depth)
            if levels and _is_white_zero(image):
                np.subtract(255, pixels, out=pixels)
            return Decoded(pixels, image.format or "", value_range, levels)
    except ImageDecodeError:
        raise
    except Image.DecompressionBombError as error:  # from Image.open, before the check above
        raise ImageSizeError(
            name, f"has too many pixels; the limit is {max_pixels / 1e6:.3g} million ({error})."
        ) from None
    except UnidentifiedImageError:
        raise ImageDecodeError(name, "is not an image in a known format.") from None
    except Exception as error:  # Pillow's decoders raise errors of any type on corrupt files
        raise ImageDecodeError(name, f"cannot be decoded: {error}") from error


def identify(path: Path) -> str:
    """Return the format of a file by its header, such as JPEG, without decoding the pixels.

    The result is "" if the file is not an image or cannot be read.
    """
    try:
        with _open(path) as image:
            return image.format or ""
    except Exception:  # Pillow raises errors of any type on corrupt files
        return ""


def count_pixels(content: bytes) -> int:
    """Return width times height of an image file by its header; 0 if it is not an image."""
    try:
        with _open(content) as image:
            return image.width * image.height
    except Exception:  # Pillow raises errors of any type on corrupt files
        return 0


def _open(source: Path | bytes) -> Image.Image:
    return Image.open(
        io.BytesIO(source) if isinstance(source, bytes) else source, formats=_supported_formats()
    )


@functools.cache
def _supported_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_white_zero(image: Image.Image) -> bool:
    """Return True for a TIFF file in which 0 is white; Pillow inverts only those with 8 bits."""
    return getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0


def _apply_orientation(image: Image.Image) -> Image.Image:
    """Return the image with its EXIF orientation applied; other EXIF tags may be damaged."""
    image.load()
    turn = ROTATIONS.get(_read_orientation(image))
    return image if turn is None else image.transpose(turn)


def _read_orientation(image: Image.Image) -> int:
    try:
        value: Any = image.getexif().get(ORIENTATION, 1)
        return int(value)
    except Exception:  # damaged EXIF raises errors of any type; treat it as upright
        return 1


def _measure(image: Image.Image) -> tuple[Range, str]:
    """Return the range of an image, and the SHA-256 of its values (empty for 8-bit images)."""
    is_float = image.mode == "F"
    if not is_float and not image.mode.startswith("I"):
        return Range(), ""
    digest, top, low = hashlib.sha256(f"{image.mode} {image.size}".encode()), 0.0, 0.0
    stride = max(1, image.width * image.height // MAX_SAMPLES)
    samples = []
    for _, strip in _iter_strips(image):
        levels = np.ascontiguousarray(strip).ravel()
        digest.update(levels.data)
        finite = levels[np.isfinite(levels)] if is_float else levels
        top, low = max(top, float(finite.max(initial=0))), min(low, float(finite.min(initial=0)))
        if is_float:
            samples.append(finite[::stride])
    values = np.concatenate(samples) if samples else np.zeros(0)
    typical = float(np.percentile(values, 99.5)) if values.size else 0.0
    return Range(top, is_float, typical, low), digest.hexdigest()


def _to_rgb(image: Image.Image, value_range: Range, depth: Depth | None) -> Array:
    if image.mode.startswith("I") or image.mode == "F":
        convert = _grey_converter(_white_level(value_range, depth))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        convert = _composite_over_white
    else:
        convert = _convert_to_rgb
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top, strip in _iter_strips(image):
        rgb[top : top + strip.height] = convert(strip)
    return rgb


def _white_level(value_range: Range, depth: Depth | None) -> float:
    """Return the white level: that of `depth`, or one derived from the image's own range."""
    if depth is not None:
        return depth.float_top if value_range.is_float else depth.integer_top
    if value_range.is_float:
        return find_depth([value_range]).float_top
    return 65535.0 if value_range.top > 255 else 255.0


BITS = (8, 10, 12, 14, 16)
# Interpolation can move floating-point values slightly beyond their range; they are clipped.
OVERSHOOT = 1.01


def find_depth(ranges: Iterable[Range]) -> Depth:
    """Return the white levels of a dataset: the smallest standard ones that hold all its values.

    Standard levels are 2^n - 1 for the n of BITS, and also 1 for floats. Beyond 16 bits the white
    level is the largest value (of floats, divided by OVERSHOOT). Without values above 0 it is 65535
    for integers and 1 for floats. The value of an image is `Range.top`, and for floats
    `Range.typical`.
    """
    value_ranges = list(ranges)
    integers = [each.top for each in value_ranges if not each.is_float and each.top > 0]
    floats = [each.typical for each in value_ranges if each.is_float and each.typical > 0]
    return Depth(
        _standard_level(max(integers)) if integers else 65535.0,
        1.0 if not floats or max(floats) <= OVERSHOOT else _standard_level(max(floats) / OVERSHOOT),
    )


def parse_depth(name: str) -> Depth:
    """Return the white levels for a `--bit-depth`: a number of bits, `float1` or `float255`."""
    if name.startswith("float"):
        return Depth(float_top=float(name.removeprefix("float")))
    top = float(2 ** int(name) - 1)
    return Depth(integer_top=top)


def _standard_level(value: float) -> float:
    return next((float(2**bits - 1) for bits in BITS if value <= 2**bits - 1), float(value))


def _iter_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield horizontal strips of the image, each with its first row.

    Strips limit the memory: a large image is never converted as a whole.
    """
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:  # without a copy
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _convert_to_rgb(strip: Image.Image) -> Array:
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _composite_over_white(strip: Image.Image) -> Array:
    rgba = strip.convert("RGBA")
    return _convert_to_rgb(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))


def _grey_converter(white: float) -> Callable[[Image.Image], Array]:
    """Return a function that scales grey values from 0..white to 8 bits.

    Pillow's own conversion would clip them to 255.
    """

    def convert(strip: Image.Image) -> Array:
        """Return the 8-bit grey values of a strip, H,W,1 uint8; NaN becomes 0."""
        levels = np.nan_to_num(
            np.asarray(strip).astype(np.float64), nan=0.0, posinf=white, neginf=0.0
        )
        return np.clip(np.round(levels * (255.0 / white)), 0, 255).astype(np.uint8)[:, :, None]

    return convert
