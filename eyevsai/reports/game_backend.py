"""Report for a game backend: models by dataset and difficulty level.

The file is `game_backend_report_DATE.json`. Its `model_path` is `models:/NAME/VERSION`, which
`eyevsai.load` and MLflow can open wherever the store is reachable. Its `local_path` is an existing
folder on this machine: that of the ONNX export, else of another export, else of the version itself;
null if there is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from eyevsai.data.catalog import DESCRIPTIONS
from eyevsai.evaluation.metric_names import VALID_ACCURACY
from eyevsai.models.factory import FAMILIES, get_family
from eyevsai.reports.difficulty import LEVELS, is_scored, split_levels
from eyevsai.reports.model_versions import ranking_key
from eyevsai.reports.readiness import ReadinessReport

VERSION = "1.0"  # of the report format
SCHEMA = "schemas/game_backend_report.json"
PER_LEVEL = 3  # models
INPUT = "N,H,W,3 uint8 RGB of any size; the model resizes and normalises them"


def build_game_report(models: Sequence[ReadinessReport], generated: str) -> dict[str, Any]:
    """Return the report of these models.

    Args:
        models: one report for each registered model.
        generated: time of the report in ISO 8601.

    Raises:
        jsonschema.ValidationError: the report does not match its schema, which is a bug.
    """
    import jsonschema

    models_by_dataset: dict[str, list[ReadinessReport]] = {}
    for model in models:
        models_by_dataset.setdefault(model.version.dataset, []).append(model)
    report = {
        "report_generated": generated,
        "version": VERSION,
        "model_descriptions": describe_models(),
        "datasets": {
            name: describe_dataset(name, dataset_models)
            for name, dataset_models in sorted(models_by_dataset.items())
        },
    }
    jsonschema.Draft202012Validator(read_schema()).validate(report)
    return report


def read_schema() -> dict[str, Any]:
    """Return the JSON schema that each report must match."""
    schema: dict[str, Any] = json.loads(
        files("eyevsai.reports").joinpath(SCHEMA).read_text(encoding="utf-8")
    )
    return schema


def describe_models() -> dict[str, dict[str, str]]:
    """Return the descriptions of all model variations, by `family/variation`."""
    return {
        f"{family}/{variation}": {
            "name": about.title,
            "technical_description": about.technical,
            "simple_description": about.simple,
            "model_type": family,
            "variation": variation,
        }
        for family in FAMILIES
        for variation, about in get_family(family).variations.items()
    }


def describe_dataset(name: str, models: Sequence[ReadinessReport]) -> dict[str, Any]:
    """Return the entry of a dataset, with its models by difficulty level.

    Models without an accuracy above zero are in no level and are not counted.
    """
    classes = list(models[0].classes_of_dataset)
    ranked = sorted(
        (each for each in models if is_scored(each.version.accuracy)),
        key=lambda each: ranking_key(each.version),
    )
    best = ranked[0] if ranked else None
    newest = max(models, key=lambda each: each.version.registered_ms).version
    return {
        "name": name.replace("_", " ").strip().capitalize() or name,
        "description": DESCRIPTIONS.get(name, f"Images of {len(classes)} classes."),
        "num_classes": len(classes),
        "class_names": classes,
        "domains": list(newest.parts) or [name],
        "difficulty_levels": _describe_levels(ranked),
        "total_models_available": len(ranked),
        "best_model": {"model_key": best.version.key, "accuracy": best.version.accuracy}
        if best
        else None,
    }


def _describe_levels(ranked: Sequence[ReadinessReport]) -> dict[str, Any]:
    """Return the best models of each level, and the range of their accuracies.

    The range is null for a level without models.
    """
    levels = split_levels([each.version.accuracy or 0.0 for each in ranked])
    models_by_level = {
        level: [each for each, actual in zip(ranked, levels, strict=True) if actual == level]
        for level in LEVELS
    }
    entries = {}
    for level, about in LEVELS.items():
        models = [describe_model(each) for each in models_by_level[level][:PER_LEVEL]]
        accuracies = [model["accuracy"] for model in models]
        accuracy_range = [min(accuracies), max(accuracies)] if accuracies else None
        entries[level] = {"description": about, "accuracy_range": accuracy_range, "models": models}
    return entries


def describe_model(model: ReadinessReport) -> dict[str, Any]:
    """Return the entry of a model."""
    version, formats = model.version, list(model.version.passed)
    model_format = get_family(version.family).framework
    deployment = {
        "export_formats": formats,
        "deployment_ready": model.is_ready,
        "deployment_recommendations": model.recommendations,
    }
    return {
        "model_key": version.key,
        "name": version.title,
        "accuracy": version.accuracy,
        "accuracy_of": version.split,
        "validation_accuracy": version.metrics.get(VALID_ACCURACY),
        "model_path": version.uri,
        "local_path": _find_folder(model),
        "version": str(version.number),
        "chosen_because": model.selected_because,
        "stage": version.stage or None,
        "run_id": version.run_id,
        "training_time": version.duration_s,
        "model_format": model_format,
        **deployment,
        "deployment_ready_because": model.reasons,
        "metadata": {
            "model_format": model_format,
            **deployment,
            "performance_metrics": dict(version.metrics),
            "model_size_info": {"size_bytes": version.size_bytes, "parameters": version.parameters},
            "compatibility_info": _describe_interface(model),
        },
    }


def _describe_interface(model: ReadinessReport) -> dict[str, Any]:
    """Return what a program needs to use the model, and the locations of its exports."""
    version = model.version
    exports = {
        name: {"uri": each.uri, "local_path": each.folder, "figures": dict(each.metrics)}
        for name, each in version.passed.items()
    }
    return {
        "input": INPUT,
        "image_size": version.image_size,
        "class_names": list(model.classes),
        "threshold": version.threshold,
        "exports": exports,
    }


def _find_folder(model: ReadinessReport) -> str | None:
    """Return the local folder to load a model from; None if there is none."""
    passed = model.version.passed
    formats = sorted(passed, key=lambda name: name != "onnx")  # most runtimes open ONNX
    return next((folder for name in formats if (folder := passed[name].folder)), model.folder)
