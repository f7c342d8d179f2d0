"""Difficulty levels of the models of a dataset as opponents, by their accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEVELS = {
    "easy": "Models with the lowest accuracy.",
    "medium": "Models with a medium accuracy.",
    "hard": "Models with the highest accuracy.",
}
PERCENTILES, FEW_PERCENTILES = (33, 67), (40, 60)  # lower and upper bound of medium
FEW = 3  # models; FEW_PERCENTILES applies to fewer


def is_scored(accuracy: float | None) -> bool:
    """Return True if a model can be ranked by its accuracy: not if it is 0, NaN or None."""
    return accuracy is not None and math.isfinite(accuracy) and accuracy > 0


def split_levels(accuracies: Sequence[float]) -> list[str]:
    """Return the difficulty level of each accuracy.

    Accuracies up to the lower percentile are easy, those up to the upper one medium, the others
    hard. Equal accuracies have the same level; a single model is easy, and of two the better one is
    hard.
    """
    if not accuracies:
        return []
    lower, upper = np.percentile(
        accuracies, PERCENTILES if len(accuracies) >= FEW else FEW_PERCENTILES
    )
    return [
        "easy" if value <= lower else "medium" if value <= upper else "hard" for value in accuracies
    ]
