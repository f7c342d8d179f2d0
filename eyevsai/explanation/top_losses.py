"""Most confident wrong predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyevsai.evaluation.metrics import Labels, Probabilities


@dataclass(frozen=True)
class TopLoss:
    """Wrong prediction: the image's index in the split, and the predicted and the true class."""

    index: int
    predicted: int
    truth: int
    probability: float  # of the predicted class


def top_losses(probabilities: Probabilities, labels: Labels, count: int) -> list[TopLoss]:
    """Return at most `count` wrong predictions, the most confident first.

    Args:
        probabilities: N,C probabilities of the classes.
        labels: N true class indices.
        count: maximum number of predictions.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    ranked = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [
        TopLoss(int(i), int(predicted[i]), int(labels[i]), float(confidence[i])) for i in ranked
    ]
