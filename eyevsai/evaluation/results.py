"""Evaluation result: predictions for one set of labelled images, and their metrics."""

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

PAIRS = 20  # default number of most confused class pairs: more are not readable


@dataclass(frozen=True)
class EvaluationResult:
    """Predictions for N labelled images, with measurements of speed and robustness.

    `probabilities` and `uncalibrated` are N,C after and before temperature scaling. `seed` is that
    of the bootstrap. `speed` has metrics by name, such as `latency_ms`. `selection` is None if no
    confidence threshold was requested.
    """

    classes: tuple[str, ...]
    labels: Labels
    probabilities: Probabilities
    uncalibrated: Probabilities
    seed: int
    speed: Mapping[str, float] = field(default_factory=dict)
    # accuracies by corruption, at severity 0 (none), 1, 2 and 3
    corrupted: Mapping[str, list[float]] = field(default_factory=dict)
    selection: SelectivePrediction | None = None

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Most probable class of each image, N."""
        predicted: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """True for each image whose most probable class is its label, N."""
        correct: npt.NDArray[np.bool_] = self.predicted == self.labels
        return correct

    @property
    def interval(self) -> Interval:
        """Confidence interval of the accuracy."""
        return accuracy_interval(self.correct, self.seed)

    def metrics(self) -> dict[str, float]:
        """Return all metrics by name, with those of `corrupted`, `selection` and `speed`.

        Corruptions give metrics such as `blur_1`, for each severity but 0.
        """
        interval = self.interval
        metrics = all_metrics(self.probabilities, self.labels) | {
            "accuracy_low": interval.low,
            "accuracy_high": interval.high,
            "ece": calibration_error(self.probabilities, self.labels),
            "uncalibrated_ece": calibration_error(self.uncalibrated, self.labels),
            "uncalibrated_loss": basic_metrics(self.uncalibrated, self.labels)["loss"],
        }
        for kind, accuracies in self.corrupted.items():
            metrics |= {
                f"{kind}_{severity}": accuracy
                for severity, accuracy in enumerate(accuracies)
                if severity
            }
        if self.selection is not None:
            metrics |= {
                "threshold": self.selection.threshold,
                "coverage": self.selection.coverage,
                "answered_accuracy": self.selection.precision,
            }
        return metrics | dict(self.speed)

    def bins(self, *, calibrated: bool) -> list[Bin]:
        """Return the reliability diagram, after or before temperature scaling."""
        return reliability(self.probabilities if calibrated else self.uncalibrated, self.labels)

    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """Return C,C counts; rows are true classes, columns predicted classes."""
        return confusion_matrix(self.probabilities, self.labels)

    def metrics_by_class(self) -> list[dict[str, float]]:
        """Return precision, recall, f1 and support of each class, in the order of `classes`."""
        return class_metrics(self.probabilities, self.labels)

    def most_confused(self, count: int = PAIRS) -> list[tuple[str, str, int]]:
        """Return the class pairs (true, predicted, images) that are confused most often.

        There are at most `count`, in descending order of images; pairs without images are left out.
        """
        matrix = self.confusion_matrix()
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:count]
        pairs = [
            (int(index) // len(self.classes), int(index) % len(self.classes)) for index in order
        ]
        return [
            (self.classes[true], self.classes[predicted], int(matrix[true, predicted]))
            for true, predicted in pairs
            if matrix[true, predicted]
        ]


def before_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Return the N,C probabilities of a model before its temperature was applied."""
    return apply_temperature(probabilities, 1 / temperature)
