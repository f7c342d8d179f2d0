"""Which images a model got most wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyevsai.evaluation.metrics import Labels, Probabilities


@dataclass(frozen=True)
class Mistake:
    """One wrong prediction: where it stands in the split, what was said, what was true."""

    place: int
    predicted: int
    truth: int
    probability: float


def worst_mistakes(probabilities: Probabilities, labels: Labels, count: int) -> list[Mistake]:
    """At most `count` wrong predictions, the most confident first."""
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    ranked = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [
        Mistake(int(i), int(predicted[i]), int(labels[i]), float(confidence[i])) for i in ranked
    ]
