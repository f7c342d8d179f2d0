"""How far a figure may be from the truth, and whether two models differ: from one set of test
images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 2000

Correct = npt.NDArray[np.bool_]  # N: whether each image was classified rightly


@dataclass(frozen=True)
class Interval:
    """Where the accuracy lies with a confidence of 95 %."""

    low: float
    high: float


def accuracy_interval(correct: Correct, seed: int) -> Interval:
    """Bootstrap interval of the share that is right (Efron 1979), percentiles of resampled
    images.
    """
    from scipy.stats import bootstrap

    # resampling what is all alike tells nothing: the rule of three does
    if correct.all() or not correct.any():
        room = min(1.0, 3 / len(correct))
        return Interval(1 - room, 1.0) if correct.all() else Interval(0.0, room)
    found = bootstrap(
        (correct.astype(np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        batch=200,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


@dataclass(frozen=True)
class Difference:
    """Two models on the same images: how many only one of them classified rightly, and how likely
    by chance.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Correct, second: Correct) -> Difference:
    """McNemar's test (1947), exact: under equal models each image that only one has right is a fair
    coin.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    count = only_first + only_second
    p_value = float(binomtest(only_first, count).pvalue) if count else 1.0
    return Difference(only_first, only_second, p_value)
