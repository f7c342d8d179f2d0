"""Gate of a retraining: the promotion checks, and a comparison on the newest labelled images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from eyevsai.evaluation.metric_names import TEST
from eyevsai.evaluation.significance import mcnemar
from eyevsai.registry.settings import read_policy
from eyevsai.registry.versions import Version
from eyevsai.retraining.selection import RECENT
from eyevsai.store.tags import EVALUATION_DIGEST, EVALUATION_WEIGHTS, WEIGHTS_SHA256
from eyevsai.tracking.search import RunInfo, find_evaluations
from eyevsai.workflows.evaluate.compare import read_predictions
from eyevsai.workflows.registry.promotion_checks import check_promotion
from eyevsai.workflows.watch.frozen_data import MANIFEST, FrozenData

SIGNIFICANCE = 0.05  # of McNemar's test, for a loss on `recent` within the tolerance


@dataclass(frozen=True)
class GateResult:
    """Texts of failed checks, and metrics of the comparison."""

    failed: tuple[str, ...]
    metrics: dict[str, float]


@dataclass(frozen=True)
class GateRules:
    """Promotion policy file, and the maximum loss of accuracy on `recent`."""

    promotion_policy: str | None
    recent_tolerance: float


def check_candidate(
    tracking_uri: str,
    version: Version,
    production: Version | None,
    frozen: FrozenData,
    rules: GateRules,
) -> GateResult:
    """Check a new version by the promotion policy, and against Production on `recent`.

    Args:
        tracking_uri: URI of the tracking store.
        version: new version.
        production: version in Production; None to compare with none.
        frozen: data that the new version was trained on.
        rules: policy file and tolerance.
    """
    dataset = version.tags.get("dataset", "")
    policy = read_policy(rules.promotion_policy, dataset)
    results = check_promotion(tracking_uri, version, production, policy)
    failed, metrics = list(results.failed_checks), dict(results.metrics)
    if frozen.recent is not None and production is not None:
        text, values = _compare_on_recent(tracking_uri, version, production, frozen, rules)
        metrics |= values
        failed += [] if text is None else [text]
    return GateResult(tuple(failed), metrics)


def _compare_on_recent(
    tracking_uri: str,
    version: Version,
    production: Version,
    frozen: FrozenData,
    rules: GateRules,
) -> tuple[str | None, dict[str, float]]:
    """Return the reason to refuse a version by its accuracy on `recent`, or None, and both."""
    digest = recent_digest(frozen)
    runs = [_find_evaluation(tracking_uri, each, digest) for each in (version, production)]
    new, current = runs
    if new is None or current is None:
        return f"{version.uri} and {production.uri} were not both evaluated on {RECENT}.", {}
    ours, theirs = (each.metrics[f"{TEST}accuracy"] for each in (new, current))
    metrics = {"recent_accuracy": ours, "recent_accuracy_before": theirs}
    text = f"accuracy on {RECENT} is {ours:.4f}, that of {production.uri} is {theirs:.4f}"
    if theirs - ours > rules.recent_tolerance:
        reason = f"the policy tolerates a loss of {rules.recent_tolerance:g}"
        return f"{version.uri} is worse on the newest labels: {text}; {reason}.", metrics
    if ours < theirs and _p_value(tracking_uri, new.run_id, current.run_id) < SIGNIFICANCE:
        return f"{version.uri} is significantly worse on the newest labels: {text}.", metrics
    return None, metrics


def recent_digest(frozen: FrozenData) -> str:
    """Return the digest of the evaluations on `recent`, as they are tagged with."""
    manifest = json.loads((frozen.folder / MANIFEST).read_text(encoding="utf-8"))
    images = (each for each in manifest["images"] if each["split"] == RECENT)
    lines = sorted(f"{each['sha256']} {each['label']}" for each in images)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _find_evaluation(tracking_uri: str, version: Version, digest: str) -> RunInfo | None:
    """Return the newest evaluation of a version's weights on the images of a digest."""
    weights = version.tags.get(WEIGHTS_SHA256)
    evaluations = (
        each
        for each in find_evaluations(tracking_uri, version.run_id)
        if each.tags[EVALUATION_DIGEST] == digest
        and (weights is None or each.tags.get(EVALUATION_WEIGHTS) == weights)
    )
    return next(evaluations, None)


def _p_value(tracking_uri: str, first: str, second: str) -> float:
    """Return the p-value of McNemar's test of two evaluations on the same images."""
    rows = [read_predictions(tracking_uri, run_id) or {} for run_id in (first, second)]
    images = sorted(rows[0].keys() & rows[1].keys())
    if not images:
        return 1.0
    correct = [np.array([each[image][0] == each[image][1] for image in images]) for each in rows]
    return mcnemar(correct[0], correct[1]).p_value
