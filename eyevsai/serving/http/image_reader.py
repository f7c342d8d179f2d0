"""Images of clients, decoded within the limits of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.data.decode import Depth, ImageSizeError, count_pixels
from eyevsai.serving.http.answers import PredictionError
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.limits import Budget
from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.images import decode_base64, decode_cell, read_cell

if TYPE_CHECKING:
    from eyevsai.serving.http.answers import Answer
    from eyevsai.serving.http.service import PredictionService

Array = npt.NDArray[np.uint8]


class ImageReader:
    """Decoder of the images of all requests, for several threads.

    The pixels of an image are counted in its header, before memory is allocated for them. A path or
    a URL is never opened.
    """

    def __init__(self, limits: LimitSettings, workers: int | None = None) -> None:
        """Create a reader.

        Args:
            limits: pixels of a request, and of all images that are decoded at a time.
            workers: number of threads that decode; None if it is not known. So few that they cannot
                reach the second limit save the counting of pixels.
        """
        self._max_pixels = limits.max_pixels
        total = limits.max_megapixels_in_flight * 1e6
        is_needed = workers is None or workers * self._max_pixels > total
        self._budget = Budget(total, "pixels") if is_needed else None

    def read_one(self, cell: Any, depth: Depth | None = None) -> Array:
        """Return an image as H,W,3 uint8 RGB.

        Args:
            cell: bytes of an image file, base64 text, nested lists, or an array H,W,3 uint8.
            depth: value range of images with more than 8 bits; None scales each by its own values.

        Raises:
            RequestError: it is no image (400), has too many pixels (413), or too many pixels are
                in flight (503).
        """
        pixels = _count_cell(cell) if self._budget else 0
        try:
            with self._budget.reserve(pixels) if self._budget else nullcontext():
                return decode_cell(cell, depth, max_pixels=self._max_pixels)
        except ImageSizeError as error:
            raise RequestError(413, str(error), reason="pixels") from error
        except UserError as error:
            raise RequestError(400, str(error), reason="image") from error


def to_images(cells: Sequence[Any], limits: LimitSettings) -> list[Any]:
    """Return the bytes of a file, or an array, for each cell of a request.

    Args:
        cells: base64 texts, nested lists, bytes or arrays.
        limits: number of images and of their pixels.

    Raises:
        RequestError: a cell is no image (400), or there are too many (413).
    """
    if len(cells) > limits.max_images:
        raise RequestError(
            413,
            f"The request has {len(cells):,} images; the limit is {limits.max_images:,}. Send "
            "several requests.",
            reason="images",
        )
    images = []
    for number, cell in enumerate(cells, 1):
        try:
            images.append(read_cell(cell))
        except UserError as error:
            raise RequestError(
                400, f"Record {number} of {len(cells)}: {error}", reason="image"
            ) from error
    if len(images) > 1:  # a single one is checked when it is decoded
        _check_pixels(sum(map(_count_pixels, images)), limits.max_pixels)
    return images


async def predict_records(
    service: PredictionService, images: Sequence[Any], **options: Any
) -> list[Answer]:
    """Return the answers of a service; an error names the image.

    Raises:
        RequestError: there is no answer for an image.
    """
    try:
        return await service.predict_all(images, **options)
    except RequestError as error:
        index = getattr(error, "index", None)
        if index is None:
            raise
        message = f"Record {index + 1} of {len(images)}: {error.message}"
        raise PredictionError(  # which the service counted
            message, error.status, error.reason, index=index, retry_after=error.retry_after
        ) from error


def _check_pixels(pixels: int, limit: int) -> None:
    if pixels > limit:
        raise RequestError(
            413,
            f"The request has {pixels / 1e6:.4g} million pixels; the limit is {limit / 1e6:g} "
            "million. Send smaller images, or fewer in a request.",
            reason="pixels",
        )


def _count_pixels(image: Any) -> int:
    """Return the pixels of an image file or an array; 0 for anything else, which is refused."""
    if isinstance(image, bytes):
        if pixels := count_pixels(image):
            return pixels
        content = decode_base64(image.decode("latin-1"))  # as `decode_cell` reads it
        return 0 if content is None else count_pixels(content)
    return int(np.prod(image.shape[:2])) if isinstance(image, np.ndarray) else 0


def _count_cell(cell: Any) -> int:
    """Return the pixels of a cell; 0 if it is no image."""
    try:
        return _count_pixels(read_cell(cell))
    except UserError:
        return 0
