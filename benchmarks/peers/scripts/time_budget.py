"""Time of a training by the clock: what is left of it, and how many epochs fit.

Scripts import this module first, so that their other imports and the building of the network are
part of the time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

START = time.perf_counter()
VALID_COST = 1 / 3  # of a validation image, relative to a training image: no backward pass
MARGIN = 0.04  # of the time left, kept back for a machine that becomes slower
PROBE = 0.05  # of the whole time, in which the speed is measured
PROBE_S = (3.0, 20.0)  # limits of that time
WARM_UP = 3  # batches that are not timed: their images may have been decoded before
MIN_BATCHES = 4  # that are timed


class TimeBudget:
    """Time since the start of the script, and until its training has to be finished."""

    def __init__(self, minutes: float) -> None:
        self.limit_s = 60 * minutes

    @property
    def used_s(self) -> float:
        """Seconds since the start of the script."""
        return time.perf_counter() - START

    @property
    def left_s(self) -> float:
        """Seconds until the training has to be finished; negative after that."""
        return self.limit_s - self.used_s


class Probe:
    """Measurement of the speed of training, from the ends of its first batches."""

    def __init__(self, budget: TimeBudget) -> None:
        self.seconds = min(max(PROBE * budget.limit_s, PROBE_S[0]), PROBE_S[1])
        self.ends: list[float] = []

    def add_batch(self) -> bool:
        """Record the end of a batch; return True if enough batches have been timed."""
        self.ends.append(time.perf_counter())
        timed = self.ends[WARM_UP:]
        return len(timed) > MIN_BATCHES and timed[-1] - self.ends[0] >= self.seconds

    @property
    def batch_s(self) -> float:
        """Mean seconds per batch."""
        return seconds_per_batch(self.ends)


def seconds_per_batch(ends: Sequence[float]) -> float:
    """Return the mean duration of the batches after the first ones, from their ends in seconds.

    If there are no more than `WARM_UP` batches, all are taken.
    """
    timed = ends[WARM_UP:] if len(ends) > WARM_UP + 1 else ends
    return (timed[-1] - timed[0]) / (len(timed) - 1)


def epochs_that_fit(
    left_s: float, image_s: float, train_images: int, valid_images: int, margin: float = MARGIN
) -> float:
    """Return the number of epochs, each with its validation, that fit into a time; a fraction.

    Args:
        left_s: seconds that are left.
        image_s: seconds per image of training.
        train_images: training images per epoch.
        valid_images: validation images per epoch.
        margin: fraction of the time to keep back.
    """
    return max(0.0, (1 - margin) * left_s / epoch_seconds(image_s, train_images, valid_images))


def epoch_seconds(image_s: float, train_images: int, valid_images: int) -> float:
    """Return the seconds of an epoch with its validation; arguments as in `epochs_that_fit`."""
    return image_s * (train_images + VALID_COST * valid_images)


def fine_tuning_epochs(
    left_s: float, head_s: float, image_s: float, train_images: int, valid_images: int
) -> int:
    """Return the number of epochs if the first one trains the head alone, and takes less time.

    Args:
        left_s: seconds that are left.
        head_s: seconds of the first epoch, with its validation.
        image_s: seconds per training image of the others.
        train_images: training images per epoch.
        valid_images: validation images per epoch.
    """
    return 1 + int(epochs_that_fit(left_s - head_s, image_s, train_images, valid_images))
