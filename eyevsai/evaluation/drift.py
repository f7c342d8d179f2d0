"""Drift of a model's predictions, from probabilities alone.

Black-box shift detection (BBSDs): the Kolmogorov-Smirnov test of each softmax column between a
reference and a window (Lipton, Wang, Smola 2018, "Detecting and correcting for label shift with
black box predictors"; Rabanser, Guennemann, Lipton 2019, "Failing loudly"). The predicted classes
are compared by a chi-squared test (BBSDh), which finds a change of the class shares sooner, and the
confidence by the KS and the Wilcoxon rank-sum test, of which the latter finds a general loss of
confidence sooner. Bonferroni's correction gives the confidence one half of alpha, and the other
tests the other half. It works for every family and export format, and needs no labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.image_statistics import STATISTICS, Statistics
from eyevsai.evaluation.monitor_settings import ALPHA, MIN_DISTANCE
from eyevsai.evaluation.two_sample import (
    ReferenceColumns,
    compare_counts,
    ks_log_p,
    rank_sum_log_p,
)
from eyevsai.evaluation.windows import check_probabilities

PREDICTED_AS = "predicted as "  # before the class in the name of the difference of predictions


@dataclass(frozen=True)
class Distance:
    """Difference of one quantity between reference and window.

    `distance` is the KS distance, the largest difference of the two distribution functions, 0..1;
    of the predicted classes, it is the total variation distance. `log_p` is the natural logarithm
    of its p-value without correction for other quantities.
    """

    name: str
    distance: float
    log_p: float
    reference_mean: float
    window_mean: float


@dataclass(frozen=True)
class Drift:
    """Result of `detect_drift` for one window.

    `columns` are the probabilities of the classes, and `confidence` is the top probability.
    `predictions` are the predicted classes; its name and means are those of the class whose share
    differs most.
    """

    images: int
    reference_images: int
    columns: tuple[Distance, ...]
    confidence: Distance
    predictions: Distance
    alpha: float
    min_distance: float

    @property
    def tests(self) -> tuple[Distance, ...]:
        """All differences that can raise an alarm."""
        return (self.confidence, self.predictions, *self.columns)

    @cached_property
    def strongest(self) -> Distance:
        """Difference with the smallest corrected p, of those that alarm if there is one."""
        large = [each for each in self.tests if self._alarms(each)]
        return min(large or self.tests, key=lambda each: (self._correct(each), -each.distance))

    @property
    def log_p(self) -> float:
        """Natural logarithm of the p-value of `strongest`, corrected for the number of tests."""
        return self._correct(self.strongest)

    @property
    def is_alarm(self) -> bool:
        """True if a difference is significant at `alpha`, and `min_distance` or more."""
        return self._alarms(self.strongest)

    def _alarms(self, test: Distance) -> bool:
        return self._correct(test) <= math.log(self.alpha) and test.distance >= self.min_distance

    def _correct(self, test: Distance) -> float:
        """Return log p of one of `tests`, corrected: one half of alpha is for the confidence."""
        others = 1 if test is self.confidence else len(self.tests) - 1
        return min(0.0, test.log_p + math.log(2 * others))


class ColumnComparer:
    """Comparison of named columns of windows with those of one reference.

    Args:
        names: names of the K columns.
        reference: N,K finite values.
    """

    def __init__(self, names: Sequence[str], reference: npt.NDArray[np.floating]) -> None:
        self._names = tuple(names)
        self._columns = ReferenceColumns(reference)

    def compare(self, window: npt.NDArray[np.floating]) -> tuple[Distance, ...]:
        """Return the KS distance of each column of M,K finite values."""
        distances, _ = self._columns.compare(window)
        log_ps = ks_log_p(distances, self._columns.images, len(window))
        means = (self._columns.means, window.mean(axis=0, dtype=np.float64))
        rows = (distances.tolist(), log_ps.tolist(), *(each.tolist() for each in means))
        return tuple(Distance(*values) for values in zip(self._names, *rows, strict=True))


class DriftDetector:
    """Comparison of the probabilities of windows with those of one reference.

    Args:
        reference: N,C probabilities of the reference, after the temperature.
        classes: names of the C classes.
        alpha: probability of an alarm in a window, at most, if both are drawn from the same
            distribution. It holds on average over references: for one given reference, that of its
            windows is higher or lower.
        min_distance: smallest distance of an alarm.

    Raises:
        UserError: there are too few images, another number of classes, or values that are no
            probabilities.
    """

    def __init__(
        self,
        reference: npt.NDArray[np.floating],
        classes: Sequence[str],
        *,
        alpha: float = ALPHA,
        min_distance: float = MIN_DISTANCE,
    ) -> None:
        self._classes = tuple(classes)
        self._alpha, self._min_distance = alpha, min_distance
        values = check_probabilities(reference, len(classes), "the reference").astype(np.float32)
        self._columns = ColumnComparer(classes, values)
        self._doubts = ReferenceColumns(_doubts(values))
        self._counts = self._count_predictions(values)

    def compare(self, window: npt.NDArray[np.floating]) -> Drift:
        """Compare a window with the reference.

        Args:
            window: M,C probabilities of the window, by the same version.

        Raises:
            UserError: there are too few images, another number of classes, or values that are no
                probabilities.
        """
        # much faster than float16
        values = check_probabilities(window, len(self._classes), "the window").astype(np.float32)
        return Drift(
            images=len(values),
            reference_images=self._doubts.images,
            columns=self._columns.compare(values),
            confidence=self._compare_confidence(_doubts(values)),
            predictions=self._compare_predictions(self._count_predictions(values)),
            alpha=self._alpha,
            min_distance=self._min_distance,
        )

    def _compare_confidence(self, doubts: npt.NDArray[np.float32]) -> Distance:
        """Return the difference of the confidence from the doubts M,1 of a window."""
        sizes = self._doubts.images, len(doubts)
        distances, superiority = self._doubts.compare(doubts)
        log_p = min(
            float(ks_log_p(distances, *sizes)[0]), rank_sum_log_p(float(superiority[0]), *sizes)
        )
        before, after = 1 - self._doubts.means[0], 1 - doubts.mean(dtype=np.float64)
        # the smaller of two p-values
        log_p = min(0.0, log_p + math.log(2))
        return Distance("confidence", float(distances[0]), log_p, float(before), float(after))

    def _count_predictions(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Return the number of images that are predicted as each class, from N,C probabilities."""
        return np.bincount(values.argmax(axis=1), minlength=len(self._classes))

    def _compare_predictions(self, counts: npt.NDArray[np.intp]) -> Distance:
        """Return the difference of the predicted classes from C counts of a window."""
        distance, log_p = compare_counts(self._counts, counts)
        first, second = (each / each.sum() for each in (self._counts, counts))
        changed = int(np.abs(first - second).argmax())
        name = PREDICTED_AS + self._classes[changed]
        return Distance(name, distance, log_p, float(first[changed]), float(second[changed]))


def detect_drift(
    reference: npt.NDArray[np.floating],
    window: npt.NDArray[np.floating],
    classes: Sequence[str],
    *,
    alpha: float = ALPHA,
    min_distance: float = MIN_DISTANCE,
) -> Drift:
    """Compare the probabilities of one window with those of a reference by `DriftDetector`.

    Args:
        reference: N,C probabilities of the reference, after the temperature.
        window: M,C probabilities of the window, by the same version.
        classes: names of the C classes.
        alpha: probability of an alarm, at most, if both are drawn from the same distribution.
        min_distance: smallest distance of an alarm.

    Raises:
        UserError: reference or window has too few images, another number of classes, or values
            that are no probabilities.
    """
    detector = DriftDetector(reference, classes, alpha=alpha, min_distance=min_distance)
    return detector.compare(window)


def compare_statistics(reference: Statistics, window: Statistics) -> tuple[Distance, ...]:
    """Compare the image statistics of a window with those of a reference.

    They explain a drift. They never raise an alarm by themselves: images that are half as bright
    are always found, and can cost no accuracy.

    Args:
        reference: N,6.
        window: M,6.

    Returns:
        A distance for each of `STATISTICS`, in that order.
    """
    return ColumnComparer(list(STATISTICS), reference).compare(window)


def explain_statistics(distances: Sequence[Distance], alpha: float = ALPHA) -> list[str]:
    """Return words such as "darker" for the statistics that differ, the most different first.

    Args:
        distances: result of `compare_statistics`.
        alpha: probability of any word if both have the same distribution.
    """
    limit = math.log(alpha / len(distances))
    different = [each for each in distances if each.log_p <= limit]
    return [
        STATISTICS[each.name][each.window_mean > each.reference_mean]
        for each in sorted(different, key=lambda each: -each.distance)
        if each.distance >= MIN_DISTANCE
    ]


def _doubts(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return 1 - confidence of N,C probabilities, N,1.

    It is the sum of the other probabilities, which have more digits: in float16, a confidence of
    more than 0.9998 is 1.
    """
    values = probabilities.copy()
    values[np.arange(len(values)), values.argmax(axis=1)] = 0
    doubts: npt.NDArray[np.float32] = values.sum(axis=1, keepdims=True)
    return doubts
