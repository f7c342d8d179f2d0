"""Accuracy of a model on images without labels, estimated from its confidence.

Two estimates, because each is wrong under other shifts: the mean confidence after temperature
scaling (Guo et al. 2017), and average thresholded confidence (ATC; Garg et al. 2022, "Leveraging
unlabeled data to predict out-of-distribution performance"). Neither can be proved from images
without labels: they may raise an alert, never decide on a promotion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.metrics import Labels
from eyevsai.evaluation.windows import check_probabilities

UNCERTAIN = 0.05  # difference of the two estimates above which neither is to be relied on


@dataclass(frozen=True)
class Baseline:
    """Relation of confidence and accuracy on labelled images, for `estimate_accuracy`.

    `threshold` is that of ATC: the share of images whose confidence is at least `threshold` is the
    accuracy, minus `offset`, which is 0 unless several images have this confidence.
    `confidence_sd` and `atc_sd` are the standard deviations, over images, of the difference
    between an image's contribution to the estimate and its being correct (0 or 1).
    """

    images: int
    accuracy: float
    threshold: float
    offset: float
    confidence_sd: float
    atc_sd: float


@dataclass(frozen=True)
class Estimate:
    """Estimated accuracy, and the standard error that it has on images like the reference."""

    accuracy: float
    spread: float


@dataclass(frozen=True)
class AccuracyEstimate:
    """Estimates of the accuracy on a window of images without labels."""

    images: int
    confidence: Estimate  # mean confidence
    atc: Estimate

    @property
    def is_uncertain(self) -> bool:
        """True if the two estimates differ by more than `UNCERTAIN`."""
        return abs(self.confidence.accuracy - self.atc.accuracy) > UNCERTAIN


def fit_baseline(probabilities: npt.NDArray[np.floating], labels: Labels) -> Baseline:
    """Return the baseline of a model from labelled images that it was not trained on.

    Args:
        probabilities: N,C after the temperature.
        labels: N class numbers.

    Raises:
        UserError: there are too few images, or the values are no probabilities.
    """
    values = check_probabilities(probabilities, probabilities.shape[-1], "the reference")
    confidence = _confidence(values)
    # before the rounding, which makes the two largest probabilities of some images equal
    correct = probabilities.argmax(axis=1) == labels
    accuracy = float(correct.mean())
    threshold = _find_threshold(confidence, int(correct.sum()))
    above = confidence >= threshold
    return Baseline(
        images=len(values),
        accuracy=accuracy,
        threshold=threshold,
        offset=accuracy - float(above.mean()),
        confidence_sd=_deviation(confidence - correct),
        atc_sd=_deviation(above.astype(np.float64) - correct),
    )


def estimate_accuracy(
    baseline: Baseline, probabilities: npt.NDArray[np.floating]
) -> AccuracyEstimate:
    """Return the estimated accuracy on a window of images without labels.

    The spread of an estimate is the standard deviation of the baseline times
    sqrt(1 / window images + 1 / baseline images): that of its difference to the accuracy on the
    window if the images are like those of the baseline. After a drift, errors are larger.

    Args:
        baseline: result of `fit_baseline` for the same version.
        probabilities: M,C after the temperature.

    Raises:
        UserError: there are too few images, or the values are no probabilities.
    """
    values = check_probabilities(probabilities, probabilities.shape[-1], "the window")
    confidence = _confidence(values)
    scale = math.sqrt(1 / len(values) + 1 / baseline.images)
    atc = float((confidence >= baseline.threshold).mean()) + baseline.offset
    return AccuracyEstimate(
        images=len(values),
        confidence=Estimate(float(confidence.mean()), baseline.confidence_sd * scale),
        atc=Estimate(min(1.0, max(0.0, atc)), baseline.atc_sd * scale),
    )


def _deviation(differences: npt.NDArray[np.float64]) -> float:
    """Return the standard deviation, and at least that of an error rate of 1 / (images + 2).

    That is Laplace's estimate of a rate of which no event was observed: a model without errors on
    the reference can have errors elsewhere.
    """
    rate = 1 / (len(differences) + 2)
    return max(float(differences.std()), math.sqrt(rate * (1 - rate)))


def _confidence(probabilities: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    confidence: npt.NDArray[np.float64] = probabilities.max(axis=1).astype(np.float64)
    return confidence


def _find_threshold(confidence: npt.NDArray[np.float64], correct: int) -> float:
    """Return the confidence that, as nearly as possible, `correct` images have or exceed.

    Args:
        confidence: N.
        correct: number of correct predictions, 0..N.
    """
    values, counts = np.unique(confidence, return_counts=True)
    at_least = counts[::-1].cumsum()[::-1]
    if not correct:
        return float(np.nextafter(values[-1], np.inf))
    return float(values[np.abs(at_least - correct).argmin()])
