"""Whether probabilities can be believed, and how to make them so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from eyevsai.evaluation.metrics import Labels, Probabilities

BINS = 15
# beyond them a temperature says that there were too few mistakes to learn from
TEMPERATURES = (0.25, 10.0)


@dataclass(frozen=True)
class Bin:
    """The predictions whose confidence lies in one interval."""

    count: int
    confidence: float
    accuracy: float


def reliability(probabilities: Probabilities, labels: Labels) -> list[Bin]:
    """Confidence and accuracy of the predictions in `BINS` equal intervals of confidence; empty
    ones are left out.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = [places == number for number in range(BINS) if (places == number).any()]
    return [
        Bin(int(each.sum()), float(confidence[each].mean()), float(correct[each].mean()))
        for each in members
    ]


def calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Expected calibration error (Naeini et al. 2015): how far confidence lies from accuracy, on
    average.
    """
    bins = reliability(probabilities, labels)
    return sum(each.count * abs(each.confidence - each.accuracy) for each in bins) / len(labels)


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """N,C probabilities whose logarithms are divided by `temperature`: the order of classes
    stays.
    """
    if temperature == 1.0:
        return probabilities
    logits = (
        np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
        / temperature
    )
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    tempered: npt.NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return tempered


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """The temperature under which the labels are most probable (Guo et al. 2017); 1 where none is
    better.
    """
    from scipy.optimize import minimize_scalar

    classes = np.arange(probabilities.shape[1])

    def loss(temperature: float) -> float:
        """Return the mean negative log likelihood at a temperature."""
        tempered = apply_temperature(probabilities, temperature).astype(np.float64)
        return float(
            metrics.log_loss(labels, tempered / tempered.sum(axis=1, keepdims=True), labels=classes)
        )

    found = minimize_scalar(
        lambda power: loss(float(np.exp(power))), bounds=np.log(TEMPERATURES), method="bounded"
    )
    best = float(np.exp(found.x))
    return best if loss(best) < loss(1.0) else 1.0
