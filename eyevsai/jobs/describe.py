"""describe: what a model is made of, before anything is trained."""

from __future__ import annotations

from typing import Any

from eyevsai.config import ModelConfig
from eyevsai.models.factory import build
from eyevsai.reports.model_card import describe_model


def describe(model: ModelConfig, num_classes: int) -> dict[str, Any]:
    """Descriptions, papers, layers, parameters and operations of one image, as plain values."""
    classes = [str(number) for number in range(num_classes)]
    return describe_model(build(model.family, model.variation, model.settings, classes, seed=0))
