"""Calibration of probabilities: reliability diagram, calibration error, temperature scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.metrics import Labels, Probabilities

BINS = 15
# search bounds; a temperature beyond them is overfitted to too few mistakes
TEMPERATURES = (0.25, 10.0)


@dataclass(frozen=True)
class Bin:
    """Number, mean confidence and accuracy of the predictions in one confidence interval."""

    count: int
    confidence: float
    accuracy: float


def reliability(probabilities: Probabilities, labels: Labels) -> list[Bin]:
    """Return the reliability diagram: `BINS` intervals of equal width, without empty ones.

    Args:
        probabilities: N,C.
        labels: N class numbers.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = [bins == number for number in range(BINS) if (bins == number).any()]
    return [
        Bin(int(each.sum()), float(confidence[each].mean()), float(correct[each].mean()))
        for each in members
    ]


def calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Return the expected calibration error (Naeini et al. 2015).

    It is the mean absolute difference between confidence and accuracy over the bins of
    `reliability`, weighted by their counts.
    """
    bins = reliability(probabilities, labels)
    return sum(each.count * abs(each.confidence - each.accuracy) for each in bins) / len(labels)


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Return N,C probabilities after dividing their logarithms by `temperature`.

    The order of classes does not change. A temperature of 1 returns the same array.
    """
    if temperature == 1.0:
        return probabilities
    logits = (
        np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
        / temperature
    )
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: npt.NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return scaled


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """Return the temperature with the lowest negative log likelihood (Guo et al. 2017).

    The search is limited to `TEMPERATURES`; returns 1.0 if no temperature there is better.

    Args:
        probabilities: N,C uncalibrated probabilities.
        labels: N class numbers.
    """
    from scipy.optimize import minimize_scalar
    from sklearn import metrics

    classes = np.arange(probabilities.shape[1])

    def loss(temperature: float) -> float:
        """Return the mean negative log likelihood at a temperature."""
        scaled = apply_temperature(probabilities, temperature).astype(np.float64)
        return float(
            metrics.log_loss(labels, scaled / scaled.sum(axis=1, keepdims=True), labels=classes)
        )

    minimum = minimize_scalar(
        lambda power: loss(float(np.exp(power))), bounds=np.log(TEMPERATURES), method="bounded"
    )
    best = float(np.exp(minimum.x))
    return best if loss(best) < loss(1.0) else 1.0
