"""Workflow of `compare`: comparison of evaluated models on the same test images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.json import to_json
from eyevsai.core.model_ref import parse_model
from eyevsai.data.decode import decode
from eyevsai.evaluation.metric_names import TEST
from eyevsai.evaluation.significance import Difference, Interval, accuracy_interval, mcnemar
from eyevsai.store.backend import open_store
from eyevsai.tracking.search import RunInfo, read_json
from eyevsai.workflows.evaluate.log_results import PREDICTION_COLUMNS, PREDICTIONS
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model

if TYPE_CHECKING:
    from eyevsai.reports.comparison_page import ComparedImage

log = logging.getLogger("eyevsai")

SHOWN = ("accuracy", "top5_accuracy", "macro_f1", "loss", "ece", "images_per_s", "latency_ms")
SAMPLES = 12  # images on the page for each pair and direction
# settings that are not compared, because they do not affect the model
IGNORED_SETTINGS = ("run_name", "cache_dir", "state_dir", "cache_limit_gb", "checkpoint_every_s")


@dataclass(frozen=True)
class ComparedModel:
    """Model of a comparison: its run, test metrics, and the interval of its accuracy."""

    run_id: str
    title: str
    metrics: dict[str, float]
    interval: Interval


@dataclass(frozen=True)
class Pair:
    """Comparison of two models on the same images."""

    first: str
    second: str
    difference: Difference
    only_first: list[str]  # names of images that only the first model classifies correctly
    only_second: list[str]


@dataclass(frozen=True)
class Comparison:
    """Metrics and settings of the compared models, and each pair with the first one."""

    models: list[ComparedModel]
    images: int
    settings: dict[str, list[Any]]  # values of each model, by name; only settings that differ
    pairs: list[Pair]


def compare(names: Sequence[str], page: Path) -> Comparison:
    """Compare evaluated models with the first of them, and write the comparison as an HTML page.

    Args:
        names: references to versions, or ids of training runs; at least two, all different.
        page: path of the HTML page. It has no images if the dataset cannot be loaded.

    Raises:
        UserError: there are fewer than two names or equal ones, a model does not exist, was not
            evaluated or was evaluated on other images, or the page cannot be written.
    """
    references = [parse_model(name) for name in names]
    if len(names) < 2 or any(
        each.has_same_target(other) for each, other in combinations(references, 2)
    ):
        raise UserError(
            f"Cannot compare {' '.join(map(repr, names))}: at least two different runs or versions "
            "are required."
        )
    tracking_uri = open_store()
    source_models = [find_trained_model(tracking_uri, reference) for reference in references]
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
            accuracy_interval(is_correct, source_model.seed),
        )
        for source_model, evaluation, is_correct in zip(
            source_models, evaluations, correct, strict=True
        )
    ]
    pairs = [
        _pair(images, models[0].title, other.title, correct[0], is_correct)
        for other, is_correct in zip(models[1:], correct[1:], strict=True)
    ]
    comparison = Comparison(models, len(images), _differing_settings(source_models), pairs)
    _write_page(page, comparison, source_models, predictions)
    return comparison


# true and predicted class of each image, by `NAME SHA256`
Rows = dict[str, tuple[str, str]]


def read_predictions(tracking_uri: str, run_id: str) -> Rows | None:
    """Return the true and the predicted class of each image of the evaluation logged on a run.

    Keys are name and SHA-256 of the image, separated by a space. Returns None if the run has no
    table of predictions, or one with other columns.
    """
    table = read_json(tracking_uri, run_id, PREDICTIONS)
    if table is None or tuple(table["columns"]) != PREDICTION_COLUMNS:
        return None
    return {
        f"{name} {digest}": (label, predicted)
        for name, digest, label, predicted, _ in table["data"]
    }


def _predictions_of(source_model: TrainedModel, evaluation: RunInfo | None) -> Rows:
    """Return the predictions of a model; raise UserError if it was not evaluated."""
    rows = read_predictions(source_model.tracking_uri, evaluation.run_id) if evaluation else None
    if rows is None:
        raise UserError(
            f"{source_model.title} was not evaluated: eyevsai evaluate {source_model.argument}"
        )
    return rows


def _common_images(source_models: Sequence[TrainedModel], predictions: Sequence[Rows]) -> list[str]:
    """Return the sorted keys of the evaluation images, which must be the same for all models.

    Raises:
        UserError: two models were evaluated on different images.
    """
    first = set(predictions[0])
    for source_model, rows in zip(source_models, predictions, strict=True):
        if set(rows) != first:
            raise UserError(
                f"{source_model.title} and {source_models[0].title} were evaluated on different "
                f"images ({len(first & set(rows))} in common). Compare models of one dataset with "
                "one --split-seed."
            )
    return sorted(first)


def _metrics(evaluation: RunInfo | None) -> dict[str, float]:
    """Return the metrics in `SHOWN` that an evaluation logged."""
    test_metrics = {
        name.removeprefix(TEST): value
        for name, value in (evaluation.metrics if evaluation else {}).items()
        if name.startswith(TEST)
    }
    return {name: test_metrics[name] for name in SHOWN if name in test_metrics}


def _pair(
    images: Sequence[str],
    first: str,
    second: str,
    first_correct: npt.NDArray[np.bool_],
    second_correct: npt.NDArray[np.bool_],
) -> Pair:
    """Return the comparison of two models.

    Args:
        images: keys of the N images.
        first: title of the first model.
        second: title of the second model.
        first_correct: N, True for each image that the first model classifies correctly.
        second_correct: the same for the second model.
    """
    names = [image.rpartition(" ")[0] for image in images]
    only_first = [names[index] for index in np.flatnonzero(first_correct & ~second_correct)]
    only_second = [names[index] for index in np.flatnonzero(~first_correct & second_correct)]
    return Pair(first, second, mcnemar(first_correct, second_correct), only_first, only_second)


def _differing_settings(source_models: Sequence[TrainedModel]) -> dict[str, list[Any]]:
    """Return the values of the models, in their order, for each setting that differs.

    A setting that a model does not have is None.
    """
    names = dict.fromkeys(name for source_model in source_models for name in source_model.config)
    values = {
        name: [source_model.config.get(name) for source_model in source_models] for name in names
    }
    return {
        name: model_values
        for name, model_values in values.items()
        if name not in IGNORED_SETTINGS and len({json.dumps(value) for value in model_values}) > 1
    }


def _write_page(
    page: Path,
    comparison: Comparison,
    source_models: Sequence[TrainedModel],
    predictions: Sequence[Rows],
) -> None:
    """Write the HTML page of a comparison, with at most `SAMPLES` images per pair and direction.

    Args:
        page: path of the page.
        comparison: comparison to write.
        source_models: compared models; the images are from the dataset of the first one.
        predictions: predictions of each model.

    Raises:
        UserError: the page cannot be written.
    """
    from eyevsai.reports.comparison_page import ComparedImage, render_comparison_page
    from eyevsai.reports.page import PageOrigin

    try:
        samples = {sample.name: sample for sample in source_models[0].load_dataset().samples}
    except UserError as error:  # the images may be on another machine; metrics do not need them
        log.warning("%s shows no images. %s", page, error)
        samples = {}

    def compared_image(name: str, first: Rows, second: Rows) -> ComparedImage:
        """Return an image with its true class and its class predicted by two models."""
        key = f"{name} {samples[name].record.digest}"
        return ComparedImage(
            decode(samples[name].file.path), first[key][0], first[key][1], second[key][1]
        )

    sheets = []
    for pair, rows in zip(comparison.pairs, predictions[1:], strict=True):
        shown = [pair.only_first[:SAMPLES], pair.only_second[:SAMPLES]]
        sheets.append(
            [
                [compared_image(name, predictions[0], rows) for name in names]
                for names in shown
                if samples
            ]
        )
    origin = PageOrigin(datetime.now().astimezone())
    run_urls = {each.run_id: each.run_url for each in source_models if each.run_url}
    content = render_comparison_page(to_json(comparison), sheets, origin=origin, run_urls=run_urls)
    try:
        page.write_text(content, encoding="utf-8")
    except OSError as error:
        raise write_error(page, error, "Choose another --page.") from error
