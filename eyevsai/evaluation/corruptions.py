"""Images as bad cameras and bad copies make them (Hendrycks & Dietterich 2019): what accuracy falls
to.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]  # H,W,3

SEVERITIES = (1, 2, 3)
BLUR = (0.01, 0.02, 0.04)  # standard deviation, in short sides
NOISE = (0.04, 0.08, 0.16)  # standard deviation, of full scale
QUALITY = (25, 12, 6)  # of JPEG
BRIGHTNESS = (0.15, 0.3, 0.45)  # of full scale, added or taken away


def _blur(image: Pixels, level: int, _random: np.random.Generator) -> Pixels:
    blurred = Image.fromarray(image).filter(
        ImageFilter.GaussianBlur(BLUR[level] * min(image.shape[:2]))
    )
    return np.array(blurred)  # one that can be written: torch warns of others


def _noise(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    return _to_bytes(image + 255 * NOISE[level] * random.standard_normal(image.shape))


def _jpeg(image: Pixels, level: int, _random: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY[level])
    return np.array(Image.open(buffer).convert("RGB"))


def _brightness(image: Pixels, level: int, random: np.random.Generator) -> Pixels:
    return _to_bytes(image + 255 * BRIGHTNESS[level] * random.choice((-1, 1)))


def _to_bytes(values: npt.NDArray[np.float64]) -> Pixels:
    return np.clip(values.round(), 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "brightness": _brightness,
}


def corrupt(image: Pixels, kind: str, severity: int, seed: int) -> Pixels:
    """H,W,3 uint8 -> the same shape, spoiled; `severity` is 1, 2 or 3, and what is random comes
    from `seed`.
    """
    return CORRUPTIONS[kind](image, severity - 1, np.random.default_rng(seed))
