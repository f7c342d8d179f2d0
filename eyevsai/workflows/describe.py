"""Workflows of `describe` and `list`: summary of a model, and inventory of models and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyevsai.config import ModelConfig
from eyevsai.data.catalog import list_datasets
from eyevsai.models.factory import FAMILIES, build, get_family


def describe(model: ModelConfig, num_classes: int) -> dict[str, Any]:
    """Return a model's descriptions, papers, layers, parameters and operations per image.

    The values are JSON-serializable. Builds the model for `num_classes` classes named "0", "1", ...
    """
    # not imported above, because it loads torch, which `list` does not need
    from eyevsai.reports.model_card import describe_model

    classes = [str(number) for number in range(num_classes)]
    return describe_model(build(model.family, model.variation, model.settings, classes, seed=0))


def list_inventory(data_dir: Path) -> dict[str, Any]:
    """Return all model families with the descriptions of their variations, and all datasets.

    The values are JSON-serializable. `data_dir` is the folder with the local datasets.
    """
    return {
        "models": {
            name: {
                "title": get_family(name).title,
                "variations": {
                    variation: {
                        "title": about.title,
                        "technical": about.technical,
                        "simple": about.simple,
                    }
                    for variation, about in get_family(name).variations.items()
                },
            }
            for name in FAMILIES
        },
        "datasets": list_datasets(data_dir),
    }
