"""Summary of all models: a table row for each version, and the best models."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from eyevsai.evaluation.metric_names import TEST, TEST_ACCURACY, VALID_ACCURACY
from eyevsai.formats.factory import REFUSED
from eyevsai.reports.difficulty import is_scored
from eyevsai.reports.model_versions import ModelVersion, ranking_key
from eyevsai.reports.readiness import ReadinessReport

METRICS = ("top5_accuracy", "macro_f1", "loss", "ece", "latency_ms")  # on the test split


def list_versions(
    versions: Iterable[ModelVersion], models: Iterable[ReadinessReport]
) -> list[dict[str, Any]]:
    """Return a table row for each version, by model and number.

    Deployment readiness is only known for the versions in `models`.
    """
    reports = {model.version.uri: model for model in models}
    ordered = sorted(versions, key=lambda each: (each.key, each.number))
    return [_describe(each, reports.get(each.uri)) for each in ordered]


def _describe(version: ModelVersion, report: ReadinessReport | None) -> dict[str, Any]:
    refused = [name for name, export in version.exports.items() if export.result == REFUSED]
    return {
        "model_key": version.key,
        "dataset": version.dataset,
        "model": version.family,
        "variation": version.variation,
        "version": version.number,
        "stage": version.stage,
        "reported": report is not None,
        "reported_because": report.selected_because if report else "",
        "accuracy": version.accuracy,
        "accuracy_of": version.split or "",
        "test_accuracy": version.metrics.get(TEST_ACCURACY),
        "valid_accuracy": version.metrics.get(VALID_ACCURACY),
        **{f"{TEST}{name}": version.metrics.get(f"{TEST}{name}") for name in METRICS},
        "training_time": version.duration_s,
        "parameters": version.parameters,
        "size_bytes": version.size_bytes,
        "image_size": version.image_size,
        "export_formats": " ".join(version.passed),
        "exports_refused": " ".join(refused),
        "deployment_ready": report.is_ready if report else None,
        "deployment_ready_because": "; ".join(report.reasons) if report else "",
        "model_path": version.uri if version.has_model else "",
        "run_id": version.run_id,
        "registered": datetime.fromtimestamp(version.registered_ms / 1000)
        .astimezone()
        .isoformat(timespec="seconds"),
    }


def write_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header.

    None becomes an empty cell, and booleans become `true` or `false`. There must be at least one
    row.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(
        [str(value).lower() if isinstance(value, bool) else value for value in row.values()]
        for row in rows
    )
    return out.getvalue()


def summarize(
    versions: Sequence[ModelVersion], models: Sequence[ReadinessReport], generated: str
) -> dict[str, Any]:
    """Return counts, the best models, and statistics of the accuracies.

    The best models are those of all, of each dataset and of each family. Models without an accuracy
    above zero are neither best nor part of the statistics.

    Args:
        versions: all versions.
        models: one report for each registered model.
        generated: time of the summary in ISO 8601.
    """
    ranked = sorted(
        (each.version for each in models if is_scored(each.version.accuracy)), key=ranking_key
    )
    return {
        "report_generated": generated,
        "total_models_trained": len(versions),
        "total_models": len(models),
        "deployment_ready": sum(model.is_ready for model in models),
        "model_types": sorted({each.family for each in versions}),
        "datasets": sorted({each.dataset for each in versions}),
        "best_overall_model": _name(ranked[0]) if ranked else None,
        "best_by_dataset": _best_by(ranked, lambda each: each.dataset),
        "best_by_model_type": _best_by(ranked, lambda each: each.family),
        "summary_statistics": _spread([each.accuracy or 0.0 for each in ranked]),
    }


def _best_by(
    ranked: Sequence[ModelVersion], group: Callable[[ModelVersion], str]
) -> dict[str, Any]:
    """Return the best model of each group; `ranked` has the best one first."""
    best: dict[str, ModelVersion] = {}
    for each in ranked:
        best.setdefault(group(each), each)
    return {name: _name(each) for name, each in sorted(best.items())}


def _name(version: ModelVersion) -> dict[str, Any]:
    return {
        "model": version.model,
        "dataset": version.dataset,
        "accuracy": version.accuracy,
        "accuracy_of": version.split,
        "version": str(version.number),
        "model_key": version.key,
    }


def _spread(accuracies: Sequence[float]) -> dict[str, float | None]:
    """Return mean, standard deviation, minimum and maximum; None for each if there is no value.

    The deviation is that of a population, because these are all models and not a sample.
    """
    if not accuracies:
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {
        "mean": statistics.fmean(accuracies),
        "std": statistics.pstdev(accuracies),
        "min": min(accuracies),
        "max": max(accuracies),
    }
