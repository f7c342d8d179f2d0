"""Checks that a version must pass before it is promoted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.evaluation.significance import mcnemar
from eyevsai.formats.factory import PASSED
from eyevsai.formats.manifest import MANIFEST
from eyevsai.models.serialization import check_weights
from eyevsai.registry.artifacts import size_of
from eyevsai.registry.settings import Policy
from eyevsai.registry.versions import (
    EXPORT,
    EXPORT_WEIGHTS_SHA256,
    MANIFEST_SHA256,
    Version,
    exports_of,
    tag_values,
)
from eyevsai.store.tags import EVALUATION_DIGEST, EVALUATION_WEIGHTS, FILES_SHA256, WEIGHTS_SHA256
from eyevsai.tracking.search import RunInfo, find_evaluations
from eyevsai.workflows.evaluate.compare import read_predictions

# of an image that a version has to answer, of no size that networks like
PROBE_SHAPE = (97, 131, 3)
LATENCY = "latency_ms"


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True)
class CheckResults:
    """The results of all checks, and the metrics that they compared."""

    checks: tuple[Check, ...]
    metrics: Mapping[str, float]
    # SHA-256 of the weights that were examined; None if the version does not load
    weights: str | None

    @property
    def failed_checks(self) -> list[str]:
        """Texts of the checks that failed; empty if the version may be promoted."""
        return [check.text for check in self.checks if not check.ok]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        checks = [vars(check) for check in self.checks]
        return {"checks": checks, "metrics": dict(self.metrics), "weights_sha256": self.weights}


@dataclass(frozen=True)
class _Baseline:
    """The version that a new one is compared with, and the metric of both."""

    uri: str
    ours: float
    value: float


def check_promotion(
    tracking_uri: str, version: Version, current: Version | None, policy: Policy
) -> CheckResults:
    """Check a version against a policy and against `current`, the version in the stage now.

    Without `current`, only the checks that need one version are made.
    """
    loads, size_mb, weights = _load(tracking_uri, version)
    checks = [loads, _check_exports(version, policy)]
    metrics = {} if size_mb is None else {"size_mb": size_mb}
    if size_mb is not None and policy.max_size_mb is not None:
        checks.append(_check_limit("size", size_mb, policy.max_size_mb, "MB", version.uri))
    evaluations = _evaluations(tracking_uri, version, weights)
    if not evaluations:
        others = "" if weights is None else " with the weights that it has"
        text = (
            f"{version.uri} was not evaluated{others}: eyevsai evaluate --model-uri {version.uri}"
        )
        return CheckResults((*checks, Check("evaluated", False, text)), metrics, weights)
    of_current = (
        _evaluations(tracking_uri, current, current.tags.get(WEIGHTS_SHA256)) if current else []
    )
    ours, theirs = _on_same_images(evaluations, of_current)
    value = ours.metrics[f"test/{policy.metric}"]
    metrics |= {policy.metric: value, LATENCY: ours.metrics[f"test/{LATENCY}"]}
    checks.append(_check_floor(version, policy, value))
    if policy.max_latency_ms is not None:
        checks.append(
            _check_limit(
                "latency", metrics[LATENCY], policy.max_latency_ms, "ms for one image", version.uri
            )
        )
    if current is not None and theirs is None:
        checks.append(_not_comparable(version, current, is_evaluated=bool(of_current)))
    elif current is not None and theirs is not None:
        metrics[f"{policy.metric}_before"] = theirs.metrics[f"test/{policy.metric}"]
        chance = partial(_p_value, tracking_uri, ours.run_id, theirs.run_id)
        other = _Baseline(current.uri, value, metrics[f"{policy.metric}_before"])
        checks.append(_check_not_worse(policy, version.uri, other, chance))
    return CheckResults(tuple(checks), metrics, weights)


def _load(tracking_uri: str, version: Version) -> tuple[Check, float | None, str | None]:
    """Check that the version's files are those that were registered, and that it answers.

    Returns the check, the size of the files in MB, and the SHA-256 of the weights; None for what is
    unknown.
    """
    from eyevsai.serving.classifier import open_model
    from eyevsai.serving.model_dir import MODEL_FOLDER, fetch_model_dir

    try:
        # the store's own files, not a copy that was fetched before
        package = fetch_model_dir(version.uri, fresh=True)
        weights, which = _check_files(tracking_uri, version, package)
        answer = open_model(package / MODEL_FOLDER).predict(np.zeros(PROBE_SHAPE, np.uint8))
    except UserError as error:
        return Check("loads", False, f"{version.uri} does not load: {error}"), None, None
    size_mb = size_of(package) / 1e6
    if not abs(sum(answer.probabilities.values()) - 1) <= 1e-3:  # nor is NaN
        return Check("loads", False, f"{version.uri} answers no probabilities."), size_mb, weights
    return (
        Check("loads", True, f"it loads, the checksums of {which} hold, and it answers"),
        size_mb,
        weights,
    )


def _check_files(tracking_uri: str, version: Version, package: Path) -> tuple[str, str]:
    """Return the SHA-256 of the weights, and which files were compared with the checksums in the
    registry.

    Raises:
        UserError: a file is not the one that was registered or exported.
    """
    from eyevsai.serving.model_dir import EXPORT_FOLDER, MODEL_FOLDER, SERVED, check_files

    weights = check_weights(package / MODEL_FOLDER)
    manifest = package / EXPORT_FOLDER / MANIFEST
    expected = tag_values(tracking_uri, version.run_id, f"{EXPORT}.{SERVED}.{MANIFEST_SHA256}")
    if manifest.is_file() and expected and hash_file(manifest) not in expected:
        raise UserError(
            f"{manifest} was changed since it was exported (SHA-256). Export the model again."
        )
    if FILES_SHA256 not in version.tags:
        return weights, "its weights"  # registered before the registry had the others'
    try:
        expected_files = dict(json.loads(version.tags[FILES_SHA256]))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the tag {FILES_SHA256} of {version.uri} was changed: it is no JSON object."
        ) from error
    check_files(package, expected_files)
    return weights, "all its files"


def _check_exports(version: Version, policy: Policy) -> Check:
    weights = version.tags.get(WEIGHTS_SHA256)
    fared = {
        name: how
        for name, how in exports_of(version.tags).items()
        if version.tags.get(f"{EXPORT}.{name}.{EXPORT_WEIGHTS_SHA256}", weights) == weights
    }
    if policy.exports is not None:
        wanted = [name.strip() for name in policy.exports.split(",") if name.strip()]
        if lacking := [name for name in wanted if fared.get(name) != PASSED]:
            command = f"eyevsai export --model-uri {version.uri} --format {','.join(lacking)}"
            text = (
                f"{version.uri} has no export as {', '.join(lacking)} that says what it says: "
                f"{command}"
            )
            return Check("exports", False, text)
        return Check("exports", True, f"exports agree: {', '.join(wanted)}")
    if refused := [name for name, how in fared.items() if how != PASSED]:
        why = (
            "such exports do not say what it says. Name the formats that matter as `exports` in "
            "the policy."
        )
        return Check("exports", False, f"{version.uri} was refused as {', '.join(refused)}: {why}")
    return Check(
        "exports",
        True,
        f"exports agree: {', '.join(fared)}" if fared else "nothing was exported yet",
    )


def _check_limit(name: str, value: float, limit: float, unit: str, uri: str) -> Check:
    said = f"{value:.3g} {unit}, and the policy allows {limit:g}"
    return Check(
        name, value <= limit, f"{name} is {said}" if value <= limit else f"{uri} takes {said}."
    )


def _evaluations(tracking_uri: str, version: Version, weights: str | None) -> list[RunInfo]:
    """Return the evaluations of a version: those of its run that are of its weights, as far as
    these are known.
    """
    found = find_evaluations(tracking_uri, version.run_id)
    return [
        each for each in found if weights is None or each.tags.get(EVALUATION_WEIGHTS) == weights
    ]


def _on_same_images(ours: list[RunInfo], theirs: list[RunInfo]) -> tuple[RunInfo, RunInfo | None]:
    """Return evaluations of both on the same images; our first one if there are none."""
    of_data = {run.tags[EVALUATION_DIGEST]: run for run in reversed(theirs)}
    for run in ours:
        if run.tags[EVALUATION_DIGEST] in of_data:
            return run, of_data[run.tags[EVALUATION_DIGEST]]
    return ours[0], None


def _check_floor(version: Version, policy: Policy, value: float) -> Check:
    said = f"{policy.metric} is {value:.4f}, and the policy asks for {policy.floor:.4f}"
    return Check(
        "floor", value >= policy.floor, said if value >= policy.floor else f"{version.uri}: {said}."
    )


def _not_comparable(version: Version, current: Version, *, is_evaluated: bool) -> Check:
    if not is_evaluated:
        command = f"eyevsai evaluate --model-uri {current.uri}"
        return Check(
            "same data", False, f"{current.uri}, which is there now, was not evaluated: {command}"
        )
    both = " and ".join(
        f"eyevsai evaluate --model-uri {uri} --data FOLDER" for uri in (version.uri, current.uri)
    )
    text = (
        f"{version.uri} and {current.uri}, which is there now, were not evaluated on the same "
        f"images. Evaluate both on one folder: {both}"
    )
    return Check("same data", False, text)


def _check_not_worse(
    policy: Policy, uri: str, other: _Baseline, chance: Callable[[], float | None]
) -> Check:
    loss, said = (
        other.value - other.ours,
        f"{policy.metric} {other.ours:.4f} against {other.value:.4f} of {other.uri}",
    )
    if loss > policy.tolerance:
        return Check(
            "not worse",
            False,
            f"{uri} is worse: {said}; the policy tolerates {policy.tolerance:g}.",
        )
    if loss <= 0 or policy.metric != "accuracy" or (p_value := chance()) is None:
        return Check("not worse", True, said)
    if p_value < policy.significance:
        return Check(
            "not worse",
            False,
            f"{uri} is worse: {said}, and chance explains that with {p_value:.3g} only "
            f"(McNemar), less than {policy.significance:g}.",
        )
    return Check("not worse", True, f"{said}: no more than chance")


def _p_value(tracking_uri: str, ours: str, theirs: str) -> float | None:
    """How likely two models that are equally good differ as much on these images; None without
    predictions of both.
    """
    first, second = read_predictions(tracking_uri, ours), read_predictions(tracking_uri, theirs)
    if not first or not second or (images := sorted(first.keys() & second.keys())) == []:
        return None
    right = [
        np.array([rows[image][0] == rows[image][1] for image in images]) for rows in (first, second)
    ]
    return mcnemar(right[0], right[1]).p_value
