"""Windows of predictions without labels, as drift and estimated accuracy are computed from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.evaluation.monitor_settings import MIN_IMAGES

# a row of float16 probabilities deviates from 1 by up to 0.0005 per large value
_SUM_TOLERANCE = 0.02
_CONSECUTIVE, _DRIFTED = 3, 2  # windows of a stream of which this many raise an alarm


def check_probabilities(
    probabilities: npt.NDArray[np.floating], num_classes: int, name: str
) -> npt.NDArray[np.float16]:
    """Return the probabilities of a window or a reference in float16, as references are stored.

    Values from models and from references are compared only after the same rounding: otherwise,
    probabilities below 6e-8, which float16 rounds to 0, look like a drift.

    Args:
        probabilities: N,C after the temperature.
        num_classes: number of classes of the model.
        name: noun phrase for messages, such as "the window".

    Raises:
        UserError: there are fewer than `MIN_IMAGES` images, another number of classes, or values
            that are no probabilities.
    """
    title = name[0].upper() + name[1:]
    if probabilities.ndim != 2 or probabilities.shape[1] != num_classes:
        columns = probabilities.shape[1] if probabilities.ndim == 2 else "no"
        raise UserError(
            f"{title} has probabilities of {columns} classes, the model has {num_classes}. Use "
            "predictions of the same version."
        )
    if len(probabilities) < MIN_IMAGES:
        raise UserError(
            f"{title} has {len(probabilities)} images, too few to detect drift. Use "
            f"{MIN_IMAGES} or more; 200 are recommended."
        )
    if not np.isfinite(probabilities).all():
        count = int((~np.isfinite(probabilities)).any(axis=1).sum())
        raise UserError(
            f"{title} has NaN or infinite probabilities for {count} of {len(probabilities)} "
            "images. Check the model's output for these images."
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    wrong = (probabilities < 0).any(axis=1) | (np.abs(sums - 1) > _SUM_TOLERANCE)
    if wrong.any():
        index = int(wrong.argmax())
        raise UserError(
            f"{title} has values that are no probabilities: the sum of image {index} is "
            f"{sums[index]:.3f}, and its smallest value {probabilities[index].min():.3f}. Use "
            "the output of the model's softmax."
        )
    return probabilities.astype(np.float16)


def split_windows(images: int, size: int) -> list[slice]:
    """Return consecutive windows of `size` images, in order.

    The rest is a window of its own, or part of the last one if it has fewer than `MIN_IMAGES`
    images.

    Args:
        images: number of images.
        size: images per window, at least `MIN_IMAGES`.

    Raises:
        UserError: `size` is too small, or there are fewer than `MIN_IMAGES` images.
    """
    if size < MIN_IMAGES:
        raise UserError(f"A window of {size} images is too small. Use {MIN_IMAGES} or more.")
    if images < MIN_IMAGES:
        raise UserError(
            f"There are {images} images, too few to detect drift. Use {MIN_IMAGES} or more."
        )
    starts = list(range(0, images, size))
    if len(starts) > 1 and images - starts[-1] < MIN_IMAGES:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], images], strict=True)]


def is_persistent(drifted: Sequence[bool]) -> bool:
    """Return True if two of three consecutive windows drifted, or the only window.

    A single window of a stream can differ by chance, or by one unusual batch.

    Args:
        drifted: True for each window with drift, in order of time.
    """
    if len(drifted) == 1:
        return drifted[0]
    return any(
        sum(drifted[start : start + _CONSECUTIVE]) >= _DRIFTED for start in range(len(drifted))
    )
