"""Versions of registered models as plain values for reports, and the selection of one per model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from eyevsai.core.model_ref import format_version
from eyevsai.evaluation.metric_names import (
    BEST_EPOCH,
    CALIBRATION,
    SCORES,
    TEST,
    TEST_ACCURACY,
    VALID_ACCURACY,
    VALID_BEST,
)
from eyevsai.formats.factory import PASSED
from eyevsai.models.base import Variation
from eyevsai.models.factory import FAMILIES, get_family

SPLITS = {TEST_ACCURACY: "test", VALID_ACCURACY: "valid"}
# prefixes of the metrics in reports
REPORTED_METRICS = (TEST, VALID_BEST, BEST_EPOCH, CALIBRATION)


@dataclass(frozen=True)
class Export:
    """Export of a version in one format."""

    result: str  # of the parity check: `passed` or `refused`
    uri: str
    folder: str | None  # with its files; None if there is none on this machine
    is_missing: bool  # True if it passed, but its files should be on this machine and are not
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """Version of a registered model with all values that reports need."""

    key: str
    dataset: str
    family: str
    variation: str
    number: int
    run_id: str
    experiment_id: str  # empty if the run was deleted
    fingerprint: str  # of the training data
    parts: tuple[str, ...]  # datasets that the training data is composed of
    registered_ms: int
    stage: str  # production, staging or empty
    has_model: bool  # False if only a legacy record was imported, without a model
    duration_s: float | None  # of the training
    metrics: Mapping[str, float]  # finite values only
    exports: Mapping[str, Export]
    failed_checks: tuple[str, ...]  # of its last promotion to Production
    size_bytes: int | None
    parameters: int | None
    image_size: int | None
    threshold: float | None

    @property
    def argument(self) -> str:
        """`NAME/VERSION`, quoted for a shell, as the commands take it."""
        return format_version(self.key, self.number)

    @property
    def uri(self) -> str:
        """URI `models:/NAME/VERSION`."""
        return f"models:/{self.key}/{self.number}"

    @property
    def scored_by(self) -> str | None:
        """Name of the metric that `accuracy` is taken from; None if there is none."""
        return next((name for name in SCORES if name in self.metrics), None)

    @property
    def split(self) -> str | None:
        """Split that the accuracy was measured on; None if there is no accuracy."""
        return SPLITS[self.scored_by] if self.scored_by else None

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the test split, else on the valid split; None if there is neither."""
        return None if self.scored_by is None else self.metrics[self.scored_by]

    @property
    def model(self) -> str:
        """Family and variation, such as `deep_v2/resnet`."""
        return f"{self.family}/{self.variation}"

    @property
    def about(self) -> Variation | None:
        """Description of the variation; None if this package does not have the model."""
        return (
            get_family(self.family).variations.get(self.variation)
            if self.family in FAMILIES
            else None
        )

    @property
    def title(self) -> str:
        """Title of the variation, or family and variation if it has no description."""
        return self.about.title if self.about else self.model

    @property
    def passed(self) -> dict[str, Export]:
        """Exports that passed the parity check, by format."""
        return {name: export for name, export in self.exports.items() if export.result == PASSED}


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that reports show, without NaN and infinity.

    JSON cannot represent those values.
    """
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith(REPORTED_METRICS) and math.isfinite(value)
    }


def ranking_key(version: ModelVersion) -> tuple[float, str]:
    """Return the sort key of different models: by descending accuracy, then by name."""
    return -(version.accuracy or 0.0), version.key


def select_versions(candidates: Iterable[ModelVersion]) -> dict[str, tuple[ModelVersion, str]]:
    """Return one version of each registered model, with the reason for its selection.

    This is the version in Production, else the best one by test accuracy, else by valid accuracy.
    Versions without a model in the store are ignored.
    """
    by_model: dict[str, list[ModelVersion]] = {}
    for each in candidates:
        if each.has_model:
            by_model.setdefault(each.key, []).append(each)
    return {key: _select(versions) for key, versions in sorted(by_model.items())}


def _select(versions: list[ModelVersion]) -> tuple[ModelVersion, str]:
    if in_production := [each for each in versions if each.stage == "production"]:
        return in_production[-1], "it is in Production"
    best = max(versions, key=_selection_key)
    if len(versions) == 1:
        return best, "it is the only version"
    if best.split is None:
        return (
            best,
            f"it is the newest of {len(versions)} versions, none of which has an accuracy",
        )
    return best, f"it is the best of {len(versions)} versions by {best.split} accuracy"


def _selection_key(version: ModelVersion) -> tuple[bool, float, int]:
    """Return the selection key of a version.

    Test accuracy precedes valid accuracy; of equal ones the newest is selected.
    """
    return (
        TEST_ACCURACY in version.metrics,
        -1.0 if version.accuracy is None else version.accuracy,
        version.number,
    )
