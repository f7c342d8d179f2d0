"""When a model had better say that it does not know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.metrics import Labels, Probabilities


@dataclass(frozen=True)
class SelectivePrediction:
    """What is answered when only predictions of at least `threshold` are: which share, and how much
    of it is right.
    """

    threshold: float
    coverage: float
    precision: float


def evaluate_threshold(
    probabilities: Probabilities, labels: Labels, threshold: float
) -> SelectivePrediction:
    """Coverage and precision at a threshold of confidence; precision 1 where nothing is
    answered.
    """
    answered = probabilities.max(axis=1) >= threshold
    correct = (probabilities.argmax(axis=1) == labels)[answered]
    return SelectivePrediction(
        threshold, float(answered.mean()), float(correct.mean()) if len(correct) else 1.0
    )


def coverage_curve(
    probabilities: Probabilities, labels: Labels
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coverage and precision when the most confident 1, 2, ... N predictions are answered."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    correct = (probabilities.argmax(axis=1) == labels)[order]
    counts = np.arange(1, len(labels) + 1)
    return counts / len(labels), np.cumsum(correct) / counts


def find_threshold(probabilities: Probabilities, labels: Labels, precision: float) -> float | None:
    """The lowest threshold above which at least `precision` of the predictions are right; None when
    there is none.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    _, precisions = coverage_curve(probabilities, labels)
    ranked = confidence[order]
    # equal confidences are answered together or not at all
    last_of_equals = np.append(ranked[1:] < ranked[:-1], True)
    enough = np.flatnonzero((precisions >= precision) & last_of_equals)
    return float(ranked[enough[-1]]) if len(enough) else None
