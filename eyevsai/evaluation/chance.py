"""Level of chance of a metric: its value for a classifier that ignores the images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

TOP = 5
STANDARD_ERRORS = 3.0  # above the level of chance, so that one of about 740 random results exceeds


@dataclass(frozen=True)
class Chance:
    """Level of chance of a metric on some images, and its standard error."""

    level: float
    standard_error: float
    images: int
    source: str  # noun phrase for the level

    @property
    def limit(self) -> float:
        """Value that a metric must exceed to be better than chance; may be above 1."""
        return self.level + STANDARD_ERRORS * self.standard_error


def chance_of(metric: str, labels: Iterable[str]) -> Chance:
    """Return the level of chance of a metric for images with these classes.

    With the shares s_c of the C classes among N images, the level p is the maximum of s_c for
    `accuracy`, which is never less than 1/C; the sum of the five largest s_c for `top5_accuracy`;
    and 1/C for `macro_f1`, which neither constant nor random answers exceed on average. The
    standard error is that of a share, sqrt(p (1 - p) / N); for `macro_f1`, whose classes count
    equally, 1/N is replaced by the mean of 1/N_c divided by C.

    Args:
        metric: `accuracy`, `top5_accuracy` or `macro_f1`.
        labels: class of each image; at least one.
    """
    counts = sorted(Counter(labels).values(), reverse=True)
    images, num_classes = sum(counts), len(counts)
    variance_factor = 1 / images
    if metric == "macro_f1":
        level, source = 1 / num_classes, f"1 / {num_classes} classes"
        variance_factor = sum(1 / count for count in counts) / num_classes**2
    elif metric == "top5_accuracy":
        level, source = sum(counts[:TOP]) / images, "the share of the five largest classes"
    else:
        level, source = counts[0] / images, "the share of the largest class"
    return Chance(level, math.sqrt(level * (1 - level) * variance_factor), images, source)
