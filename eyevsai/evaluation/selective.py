"""Selective prediction: the model abstains if its confidence is below a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.metrics import Labels, Probabilities


@dataclass(frozen=True)
class SelectivePrediction:
    """Coverage and precision if the model abstains below a confidence of `threshold`.

    `coverage` is the share of images that are answered, and `precision` the share of correct
    predictions among them.
    """

    threshold: float
    coverage: float
    precision: float


def evaluate_threshold(
    probabilities: Probabilities, labels: Labels, threshold: float
) -> SelectivePrediction:
    """Return coverage and precision at a confidence threshold; precision 1 if nothing is answered.

    Args:
        probabilities: N,C.
        labels: N class numbers.
        threshold: lowest confidence of an answered prediction.
    """
    answered = probabilities.max(axis=1) >= threshold
    correct = (probabilities.argmax(axis=1) == labels)[answered]
    return SelectivePrediction(
        threshold, float(answered.mean()), float(correct.mean()) if len(correct) else 1.0
    )


def coverage_curve(
    probabilities: Probabilities, labels: Labels
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return coverages and precisions if the 1, 2, ... N most confident predictions are answered.

    Both have shape N.
    """
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    correct = (probabilities.argmax(axis=1) == labels)[order]
    counts = np.arange(1, len(labels) + 1)
    return counts / len(labels), np.cumsum(correct) / counts


def find_threshold(probabilities: Probabilities, labels: Labels, precision: float) -> float | None:
    """Return the lowest confidence threshold with at least the given precision.

    Args:
        probabilities: N,C.
        labels: N class numbers.
        precision: required share of correct predictions among those at or above the threshold.

    Returns:
        The threshold, a confidence that occurs in `probabilities`, or None if none is sufficient.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    _, precisions = coverage_curve(probabilities, labels)
    ranked = confidence[order]
    # a threshold cannot separate equal confidences
    last_of_equals = np.append(ranked[1:] < ranked[:-1], True)
    enough = np.flatnonzero((precisions >= precision) & last_of_equals)
    return float(ranked[enough[-1]]) if len(enough) else None
