"""From a file's bytes to one RGB array, the same for whoever asks."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from eyevsai.errors import UserError

VERSION = 1  # goes into the key of the pixel cache: raise it when any decoded pixel changes
MAX_PIXELS = 89_000_000
STRIP_PIXELS = 1_000_000  # converted at a time

# Pillow warns of what it mends or guesses in damaged files; what cannot be used is said by an error.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

Array = npt.NDArray[np.uint8]


class UndecodableImage(UserError):
    """A file that is no image, or one that is torn or too large."""


def decode(source: Path | bytes) -> Array:
    """The first frame of an image as H,W,3 uint8 RGB: turned as EXIF says, alpha over white.

    Raises:
        UndecodableImage: naming the file and the reason.
    """
    return decode_with_kind(source)[0]


def decode_with_kind(source: Path | bytes) -> tuple[Array, str]:
    """What `decode` gives, and the format that the content has, such as JPEG."""
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UndecodableImage(f"{name} has {image.width} x {image.height} pixels; the limit is 89 million.")
            return _to_rgb(image), image.format or ""
    except UndecodableImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow refuses still larger ones before we can
        raise UndecodableImage(f"{name} has too many pixels; the limit is 89 million ({error}).") from None
    except UnidentifiedImageError:
        raise UndecodableImage(f"{name} is not an image in a known format.") from None
    except Exception as error:  # Pillow's decoders raise of every kind on hostile bytes
        raise UndecodableImage(f"{name} cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Array:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        convert = _deep_grey(image)
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        convert = _over_white
    else:
        convert = _plain
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top, strip in _strips(image):
        rgb[top : top + strip.height] = convert(strip)
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in parts of full width, each with where it begins: a large one is never copied as a whole."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _plain(strip: Image.Image) -> Array:
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def _over_white(strip: Image.Image) -> Array:
    rgba = strip.convert("RGBA")
    return _plain(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))


def _deep_grey(image: Image.Image) -> Callable[[Image.Image], Array]:
    """16-bit greys scaled to 8 bits; Pillow's own conversion would clip them to white."""
    highest = np.max([np.asarray(strip).max() for _, strip in _strips(image)])
    top = 1.0 if highest <= 1 and image.mode == "F" else 65535.0 if highest > 255 else 255.0

    def convert(strip: Image.Image) -> Array:
        levels = np.asarray(strip).astype(np.float64)
        return np.clip(np.round(levels * (255.0 / top)), 0, 255).astype(np.uint8)[:, :, None]

    return convert
