"""How hard an opponent each model of a dataset is, by its place among the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEVELS = {
    "easy": "Models that are most often wrong.",
    "medium": "Models between the others.",
    "hard": "Models that are most often right.",
}
PERCENTILES, OF_FEW, FEW = (33, 67), (40, 60), 3  # the second for fewer models than the third


def is_scored(accuracy: float | None) -> bool:
    """Whether an accuracy gives a model a place among others: zero, NaN and none at all do not."""
    return accuracy is not None and math.isfinite(accuracy) and accuracy > 0


def split_levels(accuracies: Sequence[float]) -> list[str]:
    """The level of each model: easy up to the lower percentile of all, medium up to the upper one,
    else hard.

    Equal accuracies share a level; a single model is easy, and of two the better one is hard.
    """
    if not accuracies:
        return []
    lower, upper = np.percentile(accuracies, PERCENTILES if len(accuracies) >= FEW else OF_FEW)
    return [
        "easy" if value <= lower else "medium" if value <= upper else "hard" for value in accuracies
    ]
