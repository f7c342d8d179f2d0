"""Model card (Mitchell et al. 2019): use, data, metrics, settings, limits and architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from eyevsai.core.version import VERSION
from eyevsai.data.dataset import Dataset
from eyevsai.models.factory import get_family
from eyevsai.models.learner import Learner

CARD = "model_card.md"  # artifact of a training run
# metrics in the card, in this order, as far as they were measured on a split
METRICS = ("accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1", "loss", "ece")


@dataclass(frozen=True)
class TrainingFacts:
    """Facts about a training run for the card.

    Attributes:
        run_id: id of the run.
        dataset: images of the run.
        settings: parameters of the run by name.
        valid: metrics on the valid split by name.
        test: metrics on the test split by name, the accuracy with its interval; None before the
            evaluation.
        date: start of the training; None if it is unknown.
    """

    run_id: str
    dataset: Dataset
    settings: Mapping[str, Any]
    valid: Mapping[str, float]
    test: Mapping[str, float] | None = None
    date: datetime | None = None


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


def render_card(described: Mapping[str, Any], facts: TrainingFacts | None = None) -> str:
    """Return the card as Markdown, with what `facts` has about the training."""
    environment = Environment(
        loader=PackageLoader("eyevsai.reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML: names are quoted as code
    )
    trained = None if facts is None else _describe_training(facts)
    card: str = environment.get_template("model_card.md").render(**described, trained=trained)
    return card


def _describe_training(facts: TrainingFacts) -> dict[str, Any]:
    """Return the variables of the template about the training."""
    dataset = facts.dataset
    counts = Counter(dataset.split_names)
    return {
        "run_id": facts.run_id,
        "software": VERSION,
        "date": None if facts.date is None else f"{facts.date:%Y-%m-%d}",
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "class_names": list(dataset.classes),
        "splits": {name: counts[name] for name in ("train", "valid", "test")},
        "settings": {name: _format_setting(value) for name, value in facts.settings.items()},
        "test": facts.test,
        "metrics": [
            {
                "name": name,
                "test": _format_metric(name, facts.test or {}),
                "valid": _format_metric(name, facts.valid),
            }
            for name in METRICS
            if name in facts.valid or name in (facts.test or {})
        ],
    }


def _format_metric(name: str, metrics: Mapping[str, float]) -> str:
    """Return a metric with four decimals, the accuracy with its interval; empty if missing."""
    if name not in metrics:
        return ""
    text = f"{metrics[name]:.4f}"
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return text if low is None or high is None else f"{text} (95 %: {low:.4f} to {high:.4f})"


def _format_setting(value: Any) -> str:
    """Return a setting for a table in Markdown."""
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value).replace("|", "\\|")
