"""Versions of registered models as a report sees them, as plain values; and which one of a model
stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from eyevsai.evaluation.metric_names import SCORES, TEST_ACCURACY, VALID_ACCURACY, VALID_BEST
from eyevsai.formats.factory import PASSED
from eyevsai.models.base import Variation
from eyevsai.models.factory import FAMILIES, get_family

SPLITS = {TEST_ACCURACY: "test", VALID_ACCURACY: "valid"}
REPORTED_METRICS = (
    "test/",
    VALID_BEST,
    "calibration/",
)  # how the metrics begin that a report shows


@dataclass(frozen=True)
class Export:
    """How a version fared in a format, and where what passed lies; `folder` is None where that is
    not this machine.
    """

    result: str
    uri: str
    folder: str | None
    is_missing: bool  # it passed, and its files are not where they were
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model, whose name is its `key`."""

    key: str
    dataset: str
    family: str
    variation: str
    number: int
    run_id: str
    experiment_id: str  # empty when the run is gone
    fingerprint: str  # of the data that it learned from
    parts: tuple[str, ...]  # the datasets that these are composed of
    registered_ms: int
    stage: str  # production, staging or empty
    has_model: bool  # of one of our families; False where only a record was imported
    duration_s: float | None  # its training
    metrics: Mapping[str, float]  # finite ones
    exports: Mapping[str, Export]
    failed_checks: tuple[str, ...]  # of its last promotion
    size_bytes: int | None
    parameters: int | None
    image_size: int | None
    threshold: float | None

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.key}/{self.number}"

    @property
    def scored_by(self) -> str | None:
        """The metric that its accuracy is."""
        return next((name for name in SCORES if name in self.metrics), None)

    @property
    def split(self) -> str | None:
        """The split that its accuracy is of."""
        return SPLITS[self.scored_by] if self.scored_by else None

    @property
    def accuracy(self) -> float | None:
        """Its accuracy; None when nobody knows."""
        return None if self.scored_by is None else self.metrics[self.scored_by]

    @property
    def model(self) -> str:
        """`deep_v2/resnet`."""
        return f"{self.family}/{self.variation}"

    @property
    def about(self) -> Variation | None:
        """What its family declares of it; None for a model that only another registry had."""
        return (
            get_family(self.family).variations.get(self.variation)
            if self.family in FAMILIES
            else None
        )

    @property
    def title(self) -> str:
        """What people call it."""
        return self.about.title if self.about else self.model

    @property
    def passed(self) -> dict[str, Export]:
        """The exports that say what it says."""
        return {name: export for name, export in self.exports.items() if export.result == PASSED}


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that a report shows; NaN and infinity are no JSON."""
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith(REPORTED_METRICS) and math.isfinite(value)
    }


def ranking_key(version: ModelVersion) -> tuple[float, str]:
    """The order of different models: the most accurate first, by name where they are equal."""
    return -(version.accuracy or 0.0), version.key


def select_versions(candidates: Iterable[ModelVersion]) -> dict[str, tuple[ModelVersion, str]]:
    """For each registered model the version that stands for it, and why: the one in Production,
    else the best one.

    A version whose model is not in the store stands for nothing.
    """
    of_models: dict[str, list[ModelVersion]] = {}
    for each in candidates:
        if each.has_model:
            of_models.setdefault(each.key, []).append(each)
    return {key: _select(versions) for key, versions in sorted(of_models.items())}


def _select(versions: list[ModelVersion]) -> tuple[ModelVersion, str]:
    if held := [each for each in versions if each.stage == "production"]:
        return held[-1], "it is in Production"
    best = max(versions, key=_order)
    if len(versions) == 1:
        return best, "it is the only version"
    if best.split is None:
        return (
            best,
            f"it is the newest of {len(versions)} versions, and nobody knows how good they are",
        )
    return best, f"it is the best of {len(versions)} versions by {best.split} accuracy"


def _order(version: ModelVersion) -> tuple[bool, float, int]:
    """By test accuracy, else by valid accuracy; of equal ones the newest."""
    return (
        TEST_ACCURACY in version.metrics,
        -1.0 if version.accuracy is None else version.accuracy,
        version.number,
    )
