"""Workflows of `describe` and `list`: summary of a model, and inventory of models and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyevsai.config import ModelConfig
from eyevsai.core.errors import UserError
from eyevsai.data.catalog import list_datasets
from eyevsai.models.factory import FAMILIES, build, get_family, select_models
from eyevsai.models.measurements import Measurement, read_measurements


def describe(model: ModelConfig, num_classes: int) -> dict[str, Any]:
    """Return a model's descriptions, papers, layers, parameters and operations per image.

    The values are JSON-serializable. Builds the model for `num_classes` classes named "0", "1", ...
    """
    # not imported above, because it loads torch, which `list` does not need
    from eyevsai.reports.model_card import describe_model

    classes = [str(number) for number in range(num_classes)]
    return describe_model(build(model.family, model.variation, model.settings, classes, seed=0))


def describe_trained(model: str) -> dict[str, Any]:
    """Return what `describe` returns for a trained model, with its own settings and classes.

    Raises:
        UserError: the model does not exist, or is an export, whose layers are unknown.
    """
    from eyevsai.models.serialization import load
    from eyevsai.reports.model_card import describe_model
    from eyevsai.serving.classifier import locate_model
    from eyevsai.serving.model_dir import MODEL_FOLDER

    located = locate_model(model)
    if located.is_export:
        raise UserError(
            f"{model} is an export, which does not contain the layers. Describe the model that it "
            "was exported from: NAME/VERSION or its run id."
        )
    return describe_model(load(located.path / MODEL_FOLDER))


def list_inventory(data_dir: Path, models: str | None = None) -> dict[str, Any]:
    """Return model families, with descriptions and measurements, and all datasets.

    `to_json` makes the values JSON-serializable.

    Args:
        data_dir: folder with the local datasets.
        models: comma-separated families or family/variation; by default all.

    Raises:
        UserError: a model is unknown.
    """
    measured = read_measurements()
    pairs = select_models(",".join(FAMILIES) if models is None else models)
    return {
        "models": {
            name: {
                "title": get_family(name).title,
                "variations": {
                    variation: {
                        "title": about.title,
                        "technical": about.technical,
                        "simple": about.simple,
                        "measured": measured.get(f"{name}/{variation}", Measurement()),
                    }
                    for variation, about in get_family(name).variations.items()
                    if (name, variation) in pairs
                },
            }
            for name in dict.fromkeys(family for family, _ in pairs)
        },
        "datasets": list_datasets(data_dir),
    }
