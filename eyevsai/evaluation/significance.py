"""Confidence interval of an accuracy, and significance test between two models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 2000

Correct = npt.NDArray[np.bool_]  # N: True for each correctly classified image


@dataclass(frozen=True)
class Interval:
    """95 % confidence interval of an accuracy."""

    low: float
    high: float


def accuracy_interval(correct: Correct, seed: int) -> Interval:
    """Return the percentile bootstrap interval of the accuracy (Efron 1979).

    If all images are correct, or none, the interval follows the rule of three instead.
    """
    from scipy.stats import bootstrap

    # all resamples of equal values are equal
    if correct.all() or not correct.any():
        width = min(1.0, 3 / len(correct))
        return Interval(1 - width, 1.0) if correct.all() else Interval(0.0, width)
    interval = bootstrap(
        (correct.astype(np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        batch=200,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Difference:
    """Comparison of two models on the same images.

    `only_first` and `only_second` count the images that only one model classified correctly;
    `p_value` is that of McNemar's test.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Correct, second: Correct) -> Difference:
    """Return the result of McNemar's exact test (1947) on the same images of two models.

    Under the null hypothesis, each image that only one model classifies correctly is equally likely
    for both. The p-value is 1 if there is no such image.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    count = only_first + only_second
    p_value = float(binomtest(only_first, count).pvalue) if count else 1.0
    return Difference(only_first, only_second, p_value)
