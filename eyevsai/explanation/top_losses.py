"""Which images a model got most wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyevsai.evaluation.metrics import Labels, Probabilities


@dataclass(frozen=True)
class TopLoss:
    """One wrong prediction: where it stands in the split, what was said, what was true."""

    index: int
    predicted: int
    truth: int
    probability: float


def top_losses(probabilities: Probabilities, labels: Labels, count: int) -> list[TopLoss]:
    """At most `count` wrong predictions, the most confident first."""
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    ranked = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [
        TopLoss(int(i), int(predicted[i]), int(labels[i]), float(confidence[i])) for i in ranked
    ]
