"""describe and list: what can be trained, on what, and what a model consists of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyevsai.config import ModelConfig
from eyevsai.data.catalog import list_datasets
from eyevsai.models.factory import FAMILIES, build, get_family


def describe(model: ModelConfig, num_classes: int) -> dict[str, Any]:
    """Descriptions, papers, layers, parameters and operations of one image, as plain values."""
    from eyevsai.reports.model_card import describe_model  # loads torch, which `list` does without

    classes = [str(number) for number in range(num_classes)]
    return describe_model(build(model.family, model.variation, model.settings, classes, seed=0))


def list_inventory(data_dir: Path) -> dict[str, Any]:
    """Families with their variations, and datasets, each with its descriptions, as plain values."""
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
