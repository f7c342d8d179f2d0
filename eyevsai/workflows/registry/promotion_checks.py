"""Checks that a version must pass before it is promoted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from eyevsai.core.errors import UserError
from eyevsai.evaluation.metric_names import TEST
from eyevsai.evaluation.significance import mcnemar
from eyevsai.formats.factory import PASSED
from eyevsai.registry.settings import Policy
from eyevsai.registry.versions import (
    EXPORT,
    EXPORT_WEIGHTS_SHA256,
    Version,
    exports_of,
)
from eyevsai.store.tags import (
    EVALUATION_DIGEST,
    EVALUATION_WEIGHTS,
    WEIGHTS_SHA256,
)
from eyevsai.tracking.search import RunInfo, find_evaluations
from eyevsai.workflows.evaluate.compare import read_predictions
from eyevsai.workflows.registry.promotion_floor import FloorResult, check_floor

# shape of the image that a version must classify: odd and not square
PROBE_SHAPE = (97, 131, 3)
LATENCY = "latency_ms"


@dataclass(frozen=True)
class Check:
    """Result of one promotion check."""

    name: str
    ok: bool
    text: str  # reason; a sentence with the fix if the check failed


@dataclass(frozen=True)
class CheckResults:
    """Results of all promotion checks, and the metrics that they compared."""

    checks: tuple[Check, ...]
    metrics: Mapping[str, float]
    # SHA-256 of the weights that were checked; None if the version does not load
    weights: str | None
    floor: FloorResult | None = None  # None for a version that was not evaluated

    @property
    def failed_checks(self) -> list[str]:
        """Texts of the failed checks; empty if the version may be promoted."""
        return [check.text for check in self.checks if not check.ok]

    @property
    def floor_summary(self) -> str:
        """Minimum of the metric in a few words, for the registry's status."""
        if self.floor is None:
            return "not evaluated"
        return self.floor.summary if self.floor.ok else f"{self.floor.summary}, not reached"

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        checks = [vars(check) for check in self.checks]
        return {
            "checks": checks,
            "metrics": dict(self.metrics),
            "weights_sha256": self.weights,
            "floor": None if self.floor is None else dict(self.floor.values),
        }


@dataclass(frozen=True)
class _Baseline:
    """Version that a new one is compared with, and the metric of both."""

    uri: str
    ours: float  # metric of the new version
    value: float  # metric of the version `uri`


def check_promotion(
    tracking_uri: str, version: Version, current: Version | None, policy: Policy
) -> CheckResults:
    """Check a version by a policy, and compare it with the current version of the stage.

    A version that was not evaluated gets no checks of its metrics, and fails.

    Args:
        tracking_uri: URI of the tracking store.
        version: version to promote.
        current: version that holds the stage; None for no comparison.
        policy: promotion policy.
    """
    loads, size_mb, weights = _load(tracking_uri, version)
    checks = [loads, _check_exports(version, policy)]
    metrics = {} if size_mb is None else {"size_mb": size_mb}
    if size_mb is not None and policy.max_size_mb is not None:
        checks.append(_check_limit("size", size_mb, policy.max_size_mb, "MB", version.uri))
    evaluations = _evaluations(tracking_uri, version, weights)
    if not evaluations:
        with_weights = "" if weights is None else " with its current weights"
        text = f"{version.uri} was not evaluated{with_weights}: eyevsai evaluate {version.argument}"
        return CheckResults((*checks, Check("evaluated", False, text)), metrics, weights)
    current_evaluations = (
        _evaluations(tracking_uri, current, current.tags.get(WEIGHTS_SHA256)) if current else []
    )
    ours, theirs = _on_same_images(evaluations, current_evaluations)
    value = ours.metrics[f"{TEST}{policy.metric}"]
    metrics |= {policy.metric: value, LATENCY: ours.metrics[f"{TEST}{LATENCY}"]}
    predictions = read_predictions(tracking_uri, ours.run_id)
    classes = None if predictions is None else [label for label, _ in predictions.values()]
    floor = check_floor(version, policy, value, classes)
    checks.append(Check("floor", floor.ok, floor.text))
    if policy.max_latency_ms is not None:
        checks.append(
            _check_limit(
                "latency", metrics[LATENCY], policy.max_latency_ms, "ms for one image", version.uri
            )
        )
    if current is not None and theirs is None:
        is_evaluated = bool(current_evaluations)
        checks.append(_not_comparable(version, current, is_evaluated=is_evaluated))
    elif current is not None and theirs is not None:
        metrics[f"{policy.metric}_before"] = theirs.metrics[f"{TEST}{policy.metric}"]
        compute_p_value = partial(_p_value, tracking_uri, ours.run_id, theirs.run_id)
        baseline = _Baseline(current.uri, value, metrics[f"{policy.metric}_before"])
        checks.append(_check_not_worse(policy, version.uri, baseline, compute_p_value))
    return CheckResults(tuple(checks), metrics, weights, floor)


def _load(tracking_uri: str, version: Version) -> tuple[Check, float | None, str | None]:
    """Check that the version's files are those that were registered, and that it can predict.

    Returns the check, the size of the files in MB, and the SHA-256 of the weights. The latter two
    are None if the files are unusable.
    """
    from eyevsai.serving.classifier import open_model
    from eyevsai.serving.model_dir import MODEL_FOLDER, fetch_model_dir, model_size
    from eyevsai.serving.version_files import check_version_files

    try:
        # not a copy in the cache: the files in the store may have changed
        model_dir = fetch_model_dir(version.uri, fresh=True)
        weights, checked_files = check_version_files(tracking_uri, version, model_dir)
        prediction = open_model(model_dir / MODEL_FOLDER).predict(np.zeros(PROBE_SHAPE, np.uint8))
    except UserError as error:
        return Check("loads", False, f"{version.uri} does not load: {error}"), None, None
    size_mb = model_size(model_dir) / 1e6
    if not abs(sum(prediction.probabilities.values()) - 1) <= 1e-3:  # True for NaN, too
        text = f"{version.uri} returns invalid probabilities: their sum is not 1."
        return Check("loads", False, text), size_mb, weights
    text = f"it loads, the checksums of {checked_files} match, and it returns probabilities"
    return Check("loads", True, text), size_mb, weights


def _check_exports(version: Version, policy: Policy) -> Check:
    """Check that the required exports of the current weights passed the parity check.

    An export that failed it is not used; without required formats, it does not count.
    """
    weights = version.tags.get(WEIGHTS_SHA256)
    results = {
        name: result
        for name, result in exports_of(version.tags).items()
        if version.tags.get(f"{EXPORT}.{name}.{EXPORT_WEIGHTS_SHA256}", weights) == weights
    }
    if policy.exports is not None:
        required = [name.strip() for name in policy.exports.split(",") if name.strip()]
        if missing := [name for name in required if results.get(name) != PASSED]:
            command = f"eyevsai export {version.argument} --format {','.join(missing)}"
            text = (
                f"{version.uri} has no export as {', '.join(missing)} that passed the parity "
                f"check: {command}"
            )
            return Check("exports", False, text)
        return Check("exports", True, f"exports passed the parity check: {', '.join(required)}")
    if not results:
        return Check("exports", True, "nothing was exported yet")
    passed = [name for name, result in results.items() if result == PASSED]
    text = f"exports passed the parity check: {', '.join(passed) or 'none'}"
    if failed := [name for name in results if name not in passed]:
        text += f"; the policy does not require {', '.join(failed)}, which failed it"
    return Check("exports", True, text)


def _check_limit(name: str, value: float, limit: float, unit: str, uri: str) -> Check:
    """Check that a measured value does not exceed the limit of the policy.

    Args:
        name: name of the check and of the value.
        value: measured value.
        limit: maximum in the policy.
        unit: unit of both.
        uri: URI of the version, for the message.
    """
    text = f"{value:.3g} {unit}; the policy allows {limit:g}"
    return Check(
        name,
        value <= limit,
        f"{name} is {text}" if value <= limit else f"The {name} of {uri} is {text}.",
    )


def _evaluations(tracking_uri: str, version: Version, weights: str | None) -> list[RunInfo]:
    """Return the evaluations of a version; [] if there are none.

    These are the evaluations of its run with the SHA-256 `weights`, or all of them if it is None.
    """
    evaluations = find_evaluations(tracking_uri, version.run_id)
    return [
        each
        for each in evaluations
        if weights is None or each.tags.get(EVALUATION_WEIGHTS) == weights
    ]


def _on_same_images(ours: list[RunInfo], theirs: list[RunInfo]) -> tuple[RunInfo, RunInfo | None]:
    """Return an evaluation of each version on the same images.

    If there are none, the first of `ours` and None.
    """
    theirs_by_digest = {run.tags[EVALUATION_DIGEST]: run for run in reversed(theirs)}
    for run in ours:
        if run.tags[EVALUATION_DIGEST] in theirs_by_digest:
            return run, theirs_by_digest[run.tags[EVALUATION_DIGEST]]
    return ours[0], None


def common_evaluations(
    tracking_uri: str, version: Version, current: Version
) -> tuple[RunInfo, RunInfo] | None:
    """Return an evaluation of each of two versions on the same images; None if there is none."""
    ours = _evaluations(tracking_uri, version, version.tags.get(WEIGHTS_SHA256))
    theirs = _evaluations(tracking_uri, current, current.tags.get(WEIGHTS_SHA256))
    if not ours:
        return None
    first, second = _on_same_images(ours, theirs)
    return None if second is None else (first, second)


def _not_comparable(version: Version, current: Version, *, is_evaluated: bool) -> Check:
    """Return the failed check of two versions without evaluations on the same images.

    `is_evaluated` is True if the current version was evaluated on other images.
    """
    if not is_evaluated:
        text = (
            f"{current.uri}, the current version, was not evaluated: eyevsai evaluate "
            f"{current.argument}"
        )
        return Check("same data", False, text)
    commands = " and ".join(
        f"eyevsai evaluate {each.argument} --data FOLDER" for each in (version, current)
    )
    text = (
        f"{version.uri} and {current.uri}, the current version, were not evaluated on the same "
        f"images. Evaluate both on one folder: {commands}"
    )
    return Check("same data", False, text)


def _check_not_worse(
    policy: Policy, uri: str, baseline: _Baseline, compute_p_value: Callable[[], float | None]
) -> Check:
    """Check that a version is not worse than the current one.

    A loss of the metric fails if it exceeds the tolerance of the policy. A smaller loss of accuracy
    fails if it is significant by McNemar's test.

    Args:
        policy: metric, tolerance and significance level.
        uri: URI of the new version, for the message.
        baseline: current version, and the metric of both.
        compute_p_value: returns the p-value of McNemar's test; None without predictions of both.
    """
    loss, comparison = (
        baseline.value - baseline.ours,
        f"{policy.metric} is {baseline.ours:.4f}, that of {baseline.uri} is {baseline.value:.4f}",
    )
    if loss > policy.tolerance:
        return Check(
            "not worse",
            False,
            f"{uri} is worse: {comparison}; the policy tolerates a loss of {policy.tolerance:g}.",
        )
    if loss <= 0 or policy.metric != "accuracy" or (p_value := compute_p_value()) is None:
        return Check("not worse", True, comparison)
    if p_value < policy.significance:
        return Check(
            "not worse",
            False,
            f"{uri} is worse: {comparison}; the difference is significant (McNemar's test: p = "
            f"{p_value:.3g}, less than {policy.significance:g}).",
        )
    return Check("not worse", True, f"{comparison}; the difference is not significant")


def _p_value(tracking_uri: str, ours: str, theirs: str) -> float | None:
    """Return the p-value of McNemar's test for the images that two evaluations have in common.

    Returns None if predictions of one are missing, or if there is no such image.

    Args:
        tracking_uri: URI of the tracking store.
        ours: id of the run with the first evaluation.
        theirs: id of the run with the second evaluation.
    """
    first, second = read_predictions(tracking_uri, ours), read_predictions(tracking_uri, theirs)
    if not first or not second or (images := sorted(first.keys() & second.keys())) == []:
        return None
    correct = [
        np.array([rows[image][0] == rows[image][1] for image in images]) for rows in (first, second)
    ]
    return mcnemar(correct[0], correct[1]).p_value
