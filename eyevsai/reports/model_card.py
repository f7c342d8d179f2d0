"""Model card (Mitchell et al. 2019): architecture, training data, scores and limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from eyevsai.data.dataset import Dataset
from eyevsai.models.factory import get_family
from eyevsai.models.learner import Learner


def describe_model(learner: Learner) -> dict[str, Any]:
    """Return descriptions, papers, layers, parameters and operations of a model."""
    about = get_family(learner.family).variations[learner.variation]
    return {
        "model": learner.family,
        "variation": learner.variation,
        "title": about.title,
        "technical": about.technical,
        "simple": about.simple,
        "papers": list(about.papers),
        "image_size": learner.preprocessing.image_size,
        "classes": len(learner.classes),
        **asdict(learner.summary()),
    }


def describe_training(dataset: Dataset, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return the training data and the scores on the valid split for the card."""
    counts = Counter(dataset.split_names)
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "class_names": list(dataset.classes),
        "splits": {name: counts[name] for name in ("train", "valid", "test")},
        "scores": dict(scores),
    }


def render_card(described: Mapping[str, Any], trained: Mapping[str, Any] | None = None) -> str:
    """Return the card as Markdown, with data and scores if `trained` is given."""
    environment = Environment(
        loader=PackageLoader("eyevsai.reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML: names are quoted as code
    )
    card: str = environment.get_template("model_card.md").render(**described, trained=trained)
    return card
