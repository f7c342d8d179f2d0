"""compare: trained models side by side, on the same test images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.json import to_json
from eyevsai.data.decode import decode
from eyevsai.evaluation.significance import Difference, Interval, accuracy_interval, mcnemar
from eyevsai.store.backend import open_store
from eyevsai.tracking.search import RunInfo, read_json
from eyevsai.workflows.evaluate.log_results import PREDICTION_COLUMNS, PREDICTIONS
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model

if TYPE_CHECKING:
    from eyevsai.reports.comparison_page import ComparedImage

log = logging.getLogger("eyevsai")

SHOWN = ("accuracy", "top5_accuracy", "macro_f1", "loss", "ece", "images_per_s", "latency_ms")
SAMPLES = 12  # images on the sheet of each pair and direction
UNEQUAL_BY_NATURE = ("run_name", "cache_dir", "state_dir", "cache_limit_gb", "checkpoint_every_s")


@dataclass(frozen=True)
class ComparedModel:
    """One of the models."""

    run_id: str
    title: str
    metrics: dict[str, float]
    interval: Interval


@dataclass(frozen=True)
class Pair:
    """Two of the models on the images that both were judged by."""

    first: str
    second: str
    difference: Difference
    only_first: list[str]  # names of images that the first alone has right
    only_second: list[str]


@dataclass(frozen=True)
class Comparison:
    """What sets trained models apart."""

    models: list[ComparedModel]
    images: int
    settings: dict[str, list[Any]]  # those that differ, by name, a value for each model
    pairs: list[Pair]


def compare(names: Sequence[str], page: Path) -> Comparison:
    """Compares the models of runs or `models:/` URIs, which were evaluated before; the first
    against each other one.

    Raises:
        UserError: one of them cannot be found, was not evaluated, or was judged by other images.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            "compare takes two runs or model URIs or more, each once, not: "
            f"{' '.join(map(repr, names))}."
        )
    tracking_uri = open_store()
    source_models = [
        find_trained_model(
            tracking_uri, *((None, name) if name.startswith("models:/") else (name, None))
        )
        for name in names
    ]
    evaluations = [source_model.evaluation_result() for source_model in source_models]
    predictions = [
        _predictions_of(source_model, evaluation)
        for source_model, evaluation in zip(source_models, evaluations, strict=True)
    ]
    images = _common_images(source_models, predictions)
    correct = [
        np.array([rows[image][0] == rows[image][1] for image in images]) for rows in predictions
    ]
    models = [
        ComparedModel(
            source_model.run_id,
            source_model.title,
            _metrics(evaluation),
            accuracy_interval(right, source_model.seed),
        )
        for source_model, evaluation, right in zip(source_models, evaluations, correct, strict=True)
    ]
    pairs = [
        _pair(images, models[0].title, other.title, correct[0], right)
        for other, right in zip(models[1:], correct[1:], strict=True)
    ]
    comparison = Comparison(models, len(images), _differing(source_models), pairs)
    _write_page(page, comparison, source_models, predictions)
    return comparison


Rows = dict[str, tuple[str, str]]  # class and prediction by the image's name


def read_predictions(tracking_uri: str, run_id: str) -> Rows | None:
    """Class and prediction of each image that an evaluation logged on a run; None when none did."""
    table = read_json(tracking_uri, run_id, PREDICTIONS)
    if table is None or tuple(table["columns"]) != PREDICTION_COLUMNS:
        return None
    return {f"{name} {digest}": (true, said) for name, digest, true, said, _ in table["data"]}


def _predictions_of(source_model: TrainedModel, evaluation: RunInfo | None) -> Rows:
    found = read_predictions(source_model.tracking_uri, evaluation.run_id) if evaluation else None
    if found is None:
        option = (
            f"--run {source_model.run_id}"
            if source_model.run
            else f"--model-uri {source_model.title}"
        )
        raise UserError(f"{source_model.title} was not evaluated yet: eyevsai evaluate {option}")
    return found


def _common_images(source_models: Sequence[TrainedModel], predictions: Sequence[Rows]) -> list[str]:
    """Images that all were judged by, sorted; the name and content of each."""
    first = set(predictions[0])
    for source_model, rows in zip(source_models, predictions, strict=True):
        if set(rows) != first:
            raise UserError(
                f"{source_model.title} and {source_models[0].title} were not judged by the same "
                f"images ({len(first & set(rows))} are): models of one dataset and one "
                "--split-seed can be compared."
            )
    return sorted(first)


def _metrics(evaluation: RunInfo | None) -> dict[str, float]:
    found = {
        name.removeprefix("test/"): value
        for name, value in (evaluation.metrics if evaluation else {}).items()
        if name.startswith("test/")
    }
    return {name: found[name] for name in SHOWN if name in found}


def _pair(
    images: Sequence[str],
    first: str,
    second: str,
    right: npt.NDArray[np.bool_],
    other: npt.NDArray[np.bool_],
) -> Pair:
    names = [image.rpartition(" ")[0] for image in images]
    only_first = [names[place] for place in np.flatnonzero(right & ~other)]
    only_second = [names[place] for place in np.flatnonzero(~right & other)]
    return Pair(first, second, mcnemar(right, other), only_first, only_second)


def _differing(source_models: Sequence[TrainedModel]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for source_model in source_models for name in source_model.config)
    values = {
        name: [source_model.config.get(name) for source_model in source_models] for name in names
    }
    return {
        name: each
        for name, each in values.items()
        if name not in UNEQUAL_BY_NATURE and len({json.dumps(value) for value in each}) > 1
    }


def _write_page(
    page: Path,
    comparison: Comparison,
    source_models: Sequence[TrainedModel],
    predictions: Sequence[Rows],
) -> None:
    from eyevsai.reports.comparison_page import ComparedImage, render_comparison_page

    try:
        items = {item.name: item for item in source_models[0].load_dataset().samples}
    except UserError as error:  # they are on another machine, say: figures need none of them
        log.warning("%s shows no images. %s", page, error)
        items = {}

    def sample(name: str, first: Rows, second: Rows) -> ComparedImage:
        """Return an image with its true and its predicted classes."""
        key = f"{name} {items[name].record.digest}"
        return ComparedImage(
            decode(items[name].file.path), first[key][0], first[key][1], second[key][1]
        )

    sheets = []
    for pair, others in zip(comparison.pairs, predictions[1:], strict=True):
        chosen = [pair.only_first[:SAMPLES], pair.only_second[:SAMPLES]]
        sheets.append(
            [[sample(name, predictions[0], others) for name in names] for names in chosen if items]
        )
    try:
        page.write_text(render_comparison_page(to_json(comparison), sheets), encoding="utf-8")
    except OSError as error:
        raise write_error(page, error, "Choose another --page.") from error
