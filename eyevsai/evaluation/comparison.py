"""Comparison of windows without labels with the reference of a version: all figures of a monitor.

Windows come from files (`monitor drift`) or from the log of a server (`monitor live`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.core.json import to_json
from eyevsai.evaluation.drift import (
    ColumnComparer,
    Distance,
    Drift,
    DriftDetector,
    explain_statistics,
)
from eyevsai.evaluation.estimation import AccuracyEstimate, estimate_accuracy
from eyevsai.evaluation.image_statistics import STATISTICS
from eyevsai.evaluation.label_shift import LabelShift, LabelShiftEstimator
from eyevsai.evaluation.monitor_settings import ALPHA, MIN_DISTANCE
from eyevsai.evaluation.reference import Reference


@dataclass(frozen=True)
class WindowComparison:
    """Differences of one window from the reference, and estimates for the window."""

    drift: Drift
    statistics: tuple[Distance, ...]
    explanation: list[str]  # such as "darker", the largest difference first
    accuracy: AccuracyEstimate
    label_shift: LabelShift

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the window by their names in MLflow."""
        return {
            "drift_log_p": self.drift.log_p,
            "drift_distance": self.drift.strongest.distance,
            "drift_alarm": float(self.drift.is_alarm),
            "estimated_accuracy": self.accuracy.confidence.accuracy,
            "estimated_accuracy_atc": self.accuracy.atc.accuracy,
            "label_shift_distance": self.label_shift.distance,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values; the share of an unknown class is None."""
        drift, shift = self.drift, self.label_shift
        return {
            "images": drift.images,
            "is_alarm": drift.is_alarm,
            "log_p": drift.log_p,
            "strongest": to_json(drift.strongest),
            "confidence": to_json(drift.confidence),
            "predictions": to_json(drift.predictions),
            "classes": to_json(drift.columns),
            "image_statistics": to_json(self.statistics),
            "explanation": self.explanation,
            "accuracy": to_json(self.accuracy) | {"is_uncertain": self.accuracy.is_uncertain},
            "label_shift": {
                "shares": _by_class(shift.classes, shift.shares),
                "errors": _by_class(shift.classes, shift.errors),
                "distance": shift.distance,
                "distance_error": shift.distance_error,
            },
        }


class WindowComparer:
    """Comparison of windows of one version's predictions with its reference.

    The reference is processed once: 1,000,000 predictions in windows of 200 take seconds.

    Args:
        reference: reference of the version that made the predictions.
        alpha: probability of a false alarm in each window.
        min_distance: smallest distance of an alarm.
    """

    def __init__(
        self, reference: Reference, *, alpha: float = ALPHA, min_distance: float = MIN_DISTANCE
    ) -> None:
        self.reference = reference
        self._alpha = alpha
        probabilities, classes = reference.probabilities, reference.classes
        self._detector = DriftDetector(
            probabilities, classes, alpha=alpha, min_distance=min_distance
        )
        self._statistics = ColumnComparer(tuple(STATISTICS), reference.statistics)
        self._label_shift = LabelShiftEstimator(probabilities, reference.labels, classes)

    def compare(
        self, probabilities: npt.NDArray[np.floating], statistics: npt.NDArray[np.floating]
    ) -> WindowComparison:
        """Compare a window with the reference.

        Args:
            probabilities: M,C probabilities after the temperature, by the reference's version.
            statistics: M,6 statistics of the images, in the order of `STATISTICS`.

        Raises:
            UserError: there are too few images, another number of classes, values that are no
                probabilities, or no statistics of each image.
        """
        drift = self._detector.compare(probabilities)
        expected = (len(probabilities), len(STATISTICS))
        if statistics.shape != expected or not np.isfinite(statistics).all():
            raise UserError(
                f"The window has image statistics of shape {statistics.shape}, some of which may "
                f"be NaN or infinite; {expected} finite values are required. Measure all images."
            )
        differences = self._statistics.compare(statistics)
        return WindowComparison(
            drift=drift,
            statistics=differences,
            explanation=explain_statistics(differences, self._alpha),
            accuracy=estimate_accuracy(self.reference.baseline, probabilities),
            label_shift=self._label_shift.estimate(probabilities),
        )


def _by_class(classes: tuple[str, ...], values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Return values by class, None for NaN."""
    return {
        name: None if math.isnan(value) else value
        for name, value in zip(classes, values.tolist(), strict=True)
    }
