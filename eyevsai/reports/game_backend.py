"""`game_backend_report_DATE.json`: the models that a game may play against, by dataset and level.

`model_path` is `models:/NAME/VERSION`, which `eyevsai.load` and MLflow open wherever the store can
be reached. `local_path` is a folder of this machine that is there: that of the ONNX export, else of
another export, else of the version itself; null where the store keeps its files elsewhere.
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

VERSION = "1.0"  # of the report's form
SCHEMA = "schemas/game_backend_report.json"
PER_LEVEL = 3
INPUT = "N,H,W,3 uint8 RGB of any size; resizing and normalisation are inside"


def build_game_report(models: Sequence[ReadinessReport], generated: str) -> dict[str, Any]:
    """The report of these models, one of each registered name; `generated` is a time in ISO 8601.

    Raises:
        jsonschema.ValidationError: it is not what its schema says, which is a defect.
    """
    import jsonschema

    of_datasets: dict[str, list[ReadinessReport]] = {}
    for model in models:
        of_datasets.setdefault(model.version.dataset, []).append(model)
    report = {
        "report_generated": generated,
        "version": VERSION,
        "model_descriptions": describe_models(),
        "datasets": {
            name: describe_dataset(name, of_dataset)
            for name, of_dataset in sorted(of_datasets.items())
        },
    }
    jsonschema.Draft202012Validator(read_schema()).validate(report)
    return report


def read_schema() -> dict[str, Any]:
    """The JSON schema that each report is held to."""
    schema: dict[str, Any] = json.loads(
        files("eyevsai.reports").joinpath(SCHEMA).read_text(encoding="utf-8")
    )
    return schema


def describe_models() -> dict[str, dict[str, str]]:
    """What families declare of their variations, by `family/variation`."""
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
    """A dataset with its levels; models without an accuracy above zero are in none and are not
    counted.
    """
    classes = list(models[0].classes_of_dataset)
    playing = sorted(
        (each for each in models if is_scored(each.version.accuracy)),
        key=lambda each: ranking_key(each.version),
    )
    best = playing[0] if playing else None
    newest = max(models, key=lambda each: each.version.registered_ms).version
    return {
        "name": name.replace("_", " ").strip().capitalize() or name,
        "description": DESCRIPTIONS.get(name, f"Images of {len(classes)} classes."),
        "num_classes": len(classes),
        "class_names": classes,
        "domains": list(newest.parts) or [name],
        "difficulty_levels": _describe_levels(playing),
        "total_models_available": len(playing),
        "best_model": {"model_key": best.version.key, "accuracy": best.version.accuracy}
        if best
        else None,
    }


def _describe_levels(playing: Sequence[ReadinessReport]) -> dict[str, Any]:
    """The best of each level; `accuracy_range` is theirs, and null where there is none."""
    levels = split_levels([each.version.accuracy or 0.0 for each in playing])
    of_level = {
        level: [each for each, own in zip(playing, levels, strict=True) if own == level]
        for level in LEVELS
    }
    found = {}
    for level, about in LEVELS.items():
        models = [describe_model(each) for each in of_level[level][:PER_LEVEL]]
        accuracies = [model["accuracy"] for model in models]
        extent = [min(accuracies), max(accuracies)] if accuracies else None
        found[level] = {"description": about, "accuracy_range": extent, "models": models}
    return found


def describe_model(model: ReadinessReport) -> dict[str, Any]:
    """One entry."""
    version, formats = model.version, list(model.version.passed)
    model_format = get_family(version.family).framework
    said = {
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
        **said,
        "deployment_ready_because": model.reasons,
        "metadata": {
            "model_format": model_format,
            **said,
            "performance_metrics": dict(version.metrics),
            "model_size_info": {"size_bytes": version.size_bytes, "parameters": version.parameters},
            "compatibility_info": _describe_use(model),
        },
    }


def _describe_use(model: ReadinessReport) -> dict[str, Any]:
    """What another program needs in order to ask the model, and where its exports lie."""
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
    passed = model.version.passed
    ordered = sorted(passed, key=lambda name: name != "onnx")  # which is what most runtimes open
    return next((folder for name in ordered if (folder := passed[name].folder)), model.folder)
