"""Image corruptions that measure robustness (Hendrycks & Dietterich 2019)."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]  # H,W,3

SEVERITIES = (1, 2, 3)
BLUR = (0.01, 0.02, 0.04)  # standard deviation as a share of the short side
NOISE = (0.04, 0.08, 0.16)  # standard deviation as a share of full scale
QUALITY = (25, 12, 6)  # JPEG quality
BRIGHTNESS = (0.15, 0.3, 0.45)  # share of full scale that is added or subtracted


def _blur(image: Pixels, level: int, _random: np.random.Generator) -> Pixels:
    blurred = Image.fromarray(image).filter(
        ImageFilter.GaussianBlur(BLUR[level] * min(image.shape[:2]))
    )
    return np.array(blurred)  # a writable copy: torch warns about read-only arrays


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
    """Return a corrupted copy of an image, H,W,3 uint8.

    Args:
        image: H,W,3 uint8 RGB.
        kind: a key of `CORRUPTIONS`.
        severity: 1, 2 or 3.
        seed: seed of the random draws.
    """
    return CORRUPTIONS[kind](image, severity - 1, np.random.default_rng(seed))
