"""Drift reference of a version: made by `train` and `evaluate`, read by `monitor`."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np

from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.data.dataset import Dataset, Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.evaluation.image_statistics import Statistics, measure_image
from eyevsai.evaluation.metrics import Probabilities
from eyevsai.evaluation.monitor_settings import MIN_IMAGES
from eyevsai.evaluation.reference import (
    CARD,
    TEST,
    Reference,
    choose_rows,
    make_reference,
    read_reference,
    write_reference,
)
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import read_config
from eyevsai.registry.artifacts import size_of
from eyevsai.registry.versions import SIZE, tagging
from eyevsai.store.tags import REFERENCE_SHA256
from eyevsai.tracking.run import Run
from eyevsai.workflows.evaluate.log_results import EvaluationLogger
from eyevsai.workflows.trained_model import TrainedModel

log = logging.getLogger("eyevsai")


def build_reference(
    learner: Learner,
    dataset: Dataset,
    split: Split,
    probabilities: Probabilities,
    *,
    name: str,
    seed: int,
    weights: str = "",
) -> Reference | None:
    """Return the drift reference of a learner; None if the split has too few images for one.

    Args:
        learner: the trained model.
        dataset: dataset of the split.
        split: labelled images.
        probabilities: N,C probabilities of the images, after the temperature.
        name: `valid` or `test`.
        seed: seed of the sample of images that is stored.
        weights: SHA-256 of the learner's weights; empty if they are not stored yet.
    """
    if len(split) < MIN_IMAGES:
        return None
    labels = split.labels.numpy()
    rows = choose_rows(labels, len(learner.classes), seed)
    return make_reference(
        learner.classes,
        probabilities,
        labels,
        rows,
        _measure(dataset, split, rows.tolist(), learner.preprocessing),
        split=name,
        temperature=learner.temperature,
        weights=weights,
    )


def _measure(
    dataset: Dataset, split: Split, rows: list[int], preprocessing: Preprocessing
) -> Statistics:
    """Return the statistics of the images at `rows` of a split, resized as for predictions."""
    statistics = []
    for row, resized in zip(rows, split.images(rows), strict=True):
        record = dataset.samples[split.rows[row]].record
        square = preprocessing.center_square(resized[None])[0].numpy()
        statistics.append(measure_image(square, record.width / record.height))
    return np.stack(statistics)


def log_reference(run: Run, source_model: TrainedModel, reference: Reference) -> None:
    """Store a reference with the model, in place of an earlier one, and tag the model's version.

    Args:
        run: run to write through.
        source_model: the model; nothing is stored if it has no logged model.
        reference: reference of the model.
    """
    from eyevsai.serving.model_dir import REFERENCE_FOLDER, model_size

    model_id = source_model.model_id
    if model_id is None:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_reference(reference, folder)
        package = source_model.model_dir
        size = model_size(package) - size_of(package / REFERENCE_FOLDER) + size_of(folder)
        tags = {REFERENCE_SHA256: hash_file(folder / CARD), SIZE: str(size)}
        run.log_model_files(model_id, folder, REFERENCE_FOLDER, last=CARD)
    if source_model.version is not None:
        run.enqueue("version_tags", **tagging(source_model.version, tags))


def load_reference(source_model: TrainedModel) -> Reference:
    """Return the drift reference of a version, and log a warning if it is provisional.

    Raises:
        UserError: the version has no reference, or one that is damaged or of other weights.
    """
    from eyevsai.serving.model_dir import MODEL_FOLDER, REFERENCE_FOLDER, fetch_model_dir

    version, argument = source_model.version, source_model.argument
    card = source_model.model_dir / REFERENCE_FOLDER / CARD
    expected = version.tags.get(REFERENCE_SHA256) if version else None
    if version is not None and expected and not _is_intact(card, expected):
        # `evaluate` may have replaced it since the model was cached on this machine
        card = fetch_model_dir(version.uri, fresh=True) / REFERENCE_FOLDER / CARD
    if not card.is_file():
        raise UserError(
            f"{source_model.title} has no drift reference. {_advise(source_model, 'Create it')}"
        )
    if expected and not _is_intact(card, expected):
        raise UserError(
            f"The drift reference of {source_model.title} has changed since it was stored "
            f"(SHA-256). {_advise(source_model, 'Create it again')}"
        )
    reference = read_reference(card.parent)
    config = read_config(source_model.model_dir / MODEL_FOLDER)
    reference.check_model(tuple(config["classes"]), str(config["sha256"]), argument)
    if reference.is_provisional:
        log.warning(
            "The drift reference of %s is provisional: its images chose the best epoch and the "
            "temperature, so that the estimated accuracy is too high. %s",
            source_model.title,
            _advise(source_model, "Replace it"),
        )
    return reference


def _advise(source_model: TrainedModel, action: str) -> str:
    """Return a sentence on how to store a reference of the test split.

    Args:
        source_model: the model.
        action: what the user is to do with the reference, such as `Replace it`.
    """
    table = source_model.split_table()
    images = None if table is None else table.count(f"\n{TEST}\t")
    if images is None or images >= MIN_IMAGES:
        return f"{action} with: eyevsai evaluate {source_model.argument}"
    return (
        f"Its test split has {images} images, and a reference of it requires {MIN_IMAGES}: train "
        "the model with a larger --test-fraction."
    )


def _is_intact(card: Path, expected: str) -> bool:
    return card.is_file() and hash_file(card) == expected


def log_test_reference(
    run: Run,
    source_model: TrainedModel,
    learner: Learner,
    evaluation: EvaluationLogger,
) -> None:
    """Store the reference that the test split of a model gives, if it has enough images.

    Args:
        run: run to write through.
        source_model: the evaluated model.
        learner: the loaded model.
        evaluation: evaluation on the model's own test split.
    """
    reference = build_reference(
        learner,
        evaluation.dataset,
        evaluation.split,
        evaluation.result.probabilities,
        name=TEST,
        seed=source_model.seed,
        weights=source_model.weights,
    )
    if reference is not None:
        log_reference(run, source_model, reference)
        return
    log.info(
        "No drift reference is stored: the test split has %d images, and %d are required.",
        len(evaluation.split),
        MIN_IMAGES,
    )
