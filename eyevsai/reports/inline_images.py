"""Images and figures for HTML pages, as data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE_PX = 96  # longest side of a thumbnail


def encode_thumbnail(image: npt.NDArray[np.uint8]) -> str:
    """Return a small JPEG of an image (H,W,3 uint8) as a data URI."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def encode_figure(figure: Figure) -> str:
    """Return a figure as a data URI of a PNG."""
    return encode_png(draw_png(figure))


def draw_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def encode_png(content: bytes) -> str:
    """Return a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode()
