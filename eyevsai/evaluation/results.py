"""All figures about a model's predictions for one set of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.calibration import Bin, apply_temperature, calibration_error, reliability
from eyevsai.evaluation.metrics import (
    Labels,
    Probabilities,
    all_metrics,
    basic_metrics,
    class_metrics,
    confusion_matrix,
)
from eyevsai.evaluation.selective import SelectivePrediction
from eyevsai.evaluation.significance import Interval, accuracy_interval

PAIRS = 20  # of classes that are taken for each other: as many as a person reads


@dataclass(frozen=True)
class EvaluationResult:
    """What predictions are worth. `uncalibrated` are those before temperature scaling."""

    classes: tuple[str, ...]
    labels: Labels
    probabilities: Probabilities
    uncalibrated: Probabilities
    seed: int
    speed: Mapping[str, float] = field(default_factory=dict)
    # accuracy by kind, at severity 0, 1, 2 and 3
    corrupted: Mapping[str, list[float]] = field(default_factory=dict)
    selection: SelectivePrediction | None = None

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """N: the most probable class of each image."""
        best: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """N: whether that is right."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right

    @property
    def interval(self) -> Interval:
        """Of the accuracy."""
        return accuracy_interval(self.correct, self.seed)

    def metrics(self) -> dict[str, float]:
        """Every figure by its name."""
        interval = self.interval
        found = all_metrics(self.probabilities, self.labels) | {
            "accuracy_low": interval.low,
            "accuracy_high": interval.high,
            "ece": calibration_error(self.probabilities, self.labels),
            "uncalibrated_ece": calibration_error(self.uncalibrated, self.labels),
            "uncalibrated_loss": basic_metrics(self.uncalibrated, self.labels)["loss"],
        }
        for kind, accuracies in self.corrupted.items():
            found |= {
                f"{kind}_{severity}": accuracy
                for severity, accuracy in enumerate(accuracies)
                if severity
            }
        if self.selection is not None:
            found |= {
                "threshold": self.selection.threshold,
                "coverage": self.selection.coverage,
                "answered_accuracy": self.selection.precision,
            }
        return found | dict(self.speed)

    def bins(self, *, calibrated: bool) -> list[Bin]:
        """The reliability diagram."""
        return reliability(self.probabilities if calibrated else self.uncalibrated, self.labels)

    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """The confusion matrix."""
        return confusion_matrix(self.probabilities, self.labels)

    def metrics_by_class(self) -> list[dict[str, float]]:
        return class_metrics(self.probabilities, self.labels)

    def most_confused(self, count: int = PAIRS) -> list[tuple[str, str, int]]:
        """At most `count` pairs of classes, true and predicted, that are taken for each other most
        often.
        """
        matrix = self.confusion_matrix()
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:count]
        pairs = [
            (int(place) // len(self.classes), int(place) % len(self.classes)) for place in order
        ]
        return [
            (self.classes[true], self.classes[said], int(matrix[true, said]))
            for true, said in pairs
            if matrix[true, said]
        ]


def before_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """What the model said before its temperature was applied."""
    return apply_temperature(probabilities, 1 / temperature)
