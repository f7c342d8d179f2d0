"""Workflow of `evaluate`: evaluation of a trained model on images not used for training."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.core.machine import peak_memory_mib
from eyevsai.core.names import nearest
from eyevsai.core.progress import track
from eyevsai.data.dataset import Dataset, Split, load_test_folder
from eyevsai.data.seeding import derive_seed
from eyevsai.data.settings import DataSettings
from eyevsai.evaluation.class_map import read_class_map
from eyevsai.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from eyevsai.evaluation.metrics import Probabilities
from eyevsai.evaluation.results import EvaluationResult, before_temperature
from eyevsai.evaluation.selective import evaluate_threshold, find_threshold
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.models.learner import Images, Learner
from eyevsai.registry.classes import name_some
from eyevsai.registry.descriptions import update_descriptions
from eyevsai.registry.versions import TESTED, TESTED_INTERVAL, THRESHOLD, tag_version
from eyevsai.reports.result_lines import format_interval
from eyevsai.store.tags import JOB, SOURCE_RUN_ID
from eyevsai.tracking.finished_runs import reopen_run
from eyevsai.tracking.run import Run
from eyevsai.workflows.drift_reference import log_test_reference
from eyevsai.workflows.evaluate.log_results import EvaluationLogger
from eyevsai.workflows.evaluate.log_summary import log_summary
from eyevsai.workflows.job_context import JobContext, job_context, log_settings
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model

log = logging.getLogger("eyevsai")

BATCH_SIZE = 128  # images per prediction, and per step of the progress bar
LATENCY_RUNS = 20  # predictions of a single image; the latency is their median


@dataclass(frozen=True)
class Evaluated:
    """Result of an evaluation."""

    model: str  # URI of the version, or `run ID`
    run_id: str  # run with the logged results
    dataset: str
    images: int
    metrics: dict[str, float]
    seconds: float


def evaluate(
    settings: EvaluateSettings,
    run_id: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Evaluated:
    """Evaluate a trained model and log the results.

    Results on the model's own test split are logged on the model's training run. Results on other
    images, or on a model whose training run was deleted, are logged on the run of this call. The
    version gets the accuracy on its own test split and the confidence threshold as tags.

    Args:
        settings: the model, and the images to evaluate it on.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.
        tags: additional tags of the run of this call.

    Raises:
        UserError: the model, the images, a class name or the store is unusable, or no threshold
            reaches the target precision.
    """
    began = time.monotonic()
    with job_context(settings.state_dir, run_id) as job:
        source_model = find_trained_model(job.tracking_uri, settings.source)
        learner = source_model.load()
        test_data = _load_evaluation_data(settings, source_model, learner)
        dataset, split = test_data.dataset, test_data.split
        title, weights = source_model.title, source_model.weights
        call_tags = {
            JOB: "evaluate",
            SOURCE_RUN_ID: source_model.run_id,
            "model_uri": title,
            **source_model.dataset_tags(),
            **tags,
        }
        with job.start_run(f"evaluate {source_model.name}", call_tags) as call:
            result = _evaluate(settings, source_model, learner, test_data)
            is_own_split = settings.data is None
            results_log = EvaluationLogger(
                result, dataset, split, learner, title, weights, is_own_split
            )
            with _run_for_results(job, source_model, call, is_own_split=is_own_split) as run:
                results_log.log_to(run)
                log_summary(run, source_model, results_log)
                if is_own_split:
                    log_test_reference(run, source_model, learner, results_log)
            _tag_version(source_model, results_log.metrics, is_own_split=is_own_split)
            _store_threshold(source_model, result, settings)
            if source_model.version is not None:
                update_descriptions(source_model.tracking_uri, source_model.version)
            log_settings(call, settings)
        metrics, seconds = results_log.metrics, time.monotonic() - began
        return Evaluated(title, run.run_id, dataset.name, len(split), metrics, seconds)


def _run_for_results(
    job: JobContext, source_model: TrainedModel, call: Run, *, is_own_split: bool
) -> AbstractContextManager[Run]:
    """Return a context manager that yields the run to log the results on.

    Args:
        job: context of the workflow.
        source_model: the evaluated model.
        call: run of this call, which is used for other images or if the training run was deleted.
        is_own_split: the images are the model's own test split. Then its training run is reopened.
    """
    if is_own_split and source_model.run is not None:
        return reopen_run(job.tracking_uri, source_model.run_id, job.state_dir)
    return nullcontext(call)


@dataclass(frozen=True)
class EvaluationData:
    """Evaluation images, with the indices of the model's classes as labels."""

    dataset: Dataset
    split: Split
    valid: Split | None  # None unless `split` is the model's own test split


def _load_evaluation_data(
    settings: EvaluateSettings, source_model: TrainedModel, learner: Learner
) -> EvaluationData:
    """Return the images of `--data`, by default the model's own test split.

    Images of classes that `--class-map` leaves out are omitted. Logs a warning if images of
    `--data` were used for training.

    Raises:
        UserError: the dataset is unusable, the own test split is empty, or `_map_classes` fails.
    """
    folders = {"data_dir": settings.data_dir, "cache_dir": settings.cache_dir}
    if settings.data is None:
        dataset = source_model.load_dataset(**folders)
        data = dataset.open(learner.preprocessing)
        if not len(data.test):
            raise UserError(
                f"The test split of {dataset.name} is empty: the model was trained with "
                "--test-fraction 0. Evaluate it on other images with --data FOLDER."
            )
        return EvaluationData(dataset, data.test, data.valid)
    cache_dir = settings.cache_dir or str(source_model.config["cache_dir"])
    dataset = load_test_folder(DataSettings(data=settings.data, cache_dir=cache_dir))
    data_classes = sorted({sample.label for sample in dataset.samples})
    class_map = read_class_map(settings.class_map)
    names = _map_classes(data_classes, learner.classes, class_map, source_model.title)
    _warn_of_training_images(dataset, source_model)
    all_images = dataset.open(learner.preprocessing).test
    indices = [index for index, sample in enumerate(dataset.samples) if names[sample.label]]
    labels = all_images.labels.new_tensor(
        [learner.classes.index(names[dataset.samples[index].label]) for index in indices]
    )
    rows = [all_images.rows[index] for index in indices]
    split = replace(all_images, rows=rows, labels=labels)
    return EvaluationData(dataset, split, None)


def _map_classes(
    data_classes: Sequence[str],
    model_classes: Sequence[str],
    class_map: Mapping[str, str],
    title: str,
) -> dict[str, str]:
    """Return the model's class for each class of the data; empty for classes to leave out.

    Logs a warning if the data have no images of some of the model's classes.

    Args:
        data_classes: classes of the data.
        model_classes: classes of the model.
        class_map: classes of the data whose name in the model differs; empty names leave a class
            out.
        title: title of the model, for messages.

    Raises:
        UserError: `class_map` has a class that the data do not have, a class is not one of the
            model's, or all are left out.
    """
    names = {name: class_map.get(name, name) for name in data_classes}
    if missing := [name for name in class_map if name not in data_classes]:
        raise UserError(
            f"--class-map has classes that --data does not have: {', '.join(missing[:10])}. "
            f"Correct or remove them; the classes of --data are {name_some(data_classes)}."
        )
    wrong = {
        name: mapped for name, mapped in class_map.items() if mapped not in ("", *model_classes)
    }
    if wrong:
        name, mapped = next(iter(wrong.items()))
        guess = nearest(mapped, model_classes)
        raise UserError(
            f"--class-map maps {name!r} to {mapped!r}, which is not a class of {title}."
            f"{f' Did you mean {guess!r}?' if guess else ''} Its classes are "
            f"{name_some(model_classes)}."
        )
    unknown = [name for name, mapped in names.items() if mapped and mapped not in model_classes]
    if unknown:
        raise UserError(
            f"{title} does not have these classes of --data: {', '.join(unknown[:10])}. Its "
            f"classes are {name_some(model_classes)}. Map them with --class-map FILE.toml."
        )
    if not any(names.values()):
        raise UserError("--class-map leaves out all classes of --data. Map at least one of them.")
    if absent := sorted(set(model_classes) - set(names.values())):
        log.warning("The metrics do not cover classes without images: %s", ", ".join(absent[:10]))
    return names


def _warn_of_training_images(dataset: Dataset, source_model: TrainedModel) -> None:
    """Log a warning if images were in the model's train split, or if that cannot be checked."""
    table = source_model.split_table()
    if table is None:
        log.warning(
            "Cannot check if %s was trained on some of the images: the list of its training "
            "images, which belongs to its run, is missing.",
            source_model.title,
        )
        return
    lines = table.splitlines()[1:]
    training_digests = {line.rpartition("\t")[2] for line in lines if line.startswith("train\t")}
    count = sum(sample.record.digest in training_digests for sample in dataset.samples)
    if count:
        log.warning(
            "%d of %d images were in the model's train split: the metrics are too optimistic.",
            count,
            len(dataset.samples),
        )


def _evaluate(
    settings: EvaluateSettings, source_model: TrainedModel, learner: Learner, data: EvaluationData
) -> EvaluationResult:
    """Return the predictions for the images, with measurements of speed and robustness.

    With `target_precision`, the result also has the selective prediction at the threshold that is
    found on the valid split.

    Raises:
        UserError: no threshold reaches the target precision.
    """
    images, labels = data.split.arrays(), data.split.labels.numpy()
    began = time.perf_counter()
    probabilities = _predict(learner, images, "Predicting")
    images_per_s = len(images) / (time.perf_counter() - began)
    selection = None
    if settings.target_precision is not None and data.valid is not None:
        valid = _predict(learner, data.valid.arrays(), "Predicting valid")
        threshold = find_threshold(valid, data.valid.labels.numpy(), settings.target_precision)
        if threshold is None:
            raise UserError(
                f"No threshold reaches --target-precision {settings.target_precision:g} on the "
                "valid split. Use a lower value."
            )
        selection = evaluate_threshold(probabilities, labels, threshold)
    return EvaluationResult(
        classes=learner.classes,
        labels=labels,
        probabilities=probabilities,
        uncalibrated=before_temperature(probabilities, learner.temperature),
        seed=source_model.seed,
        speed=_measure_latency(learner, images) | {"images_per_s": images_per_s},
        corrupted=_corrupt(settings, source_model, learner, images, labels),
        selection=selection,
    )


def _predict(learner: Learner, images: Images, label: str) -> Probabilities:
    """Return the probabilities (N,C) of N images; `label` is the title of the progress bar."""
    starts = track(range(0, len(images), BATCH_SIZE), label, total=len(images), unit=BATCH_SIZE)
    return np.concatenate(
        [learner.predict_proba(images[start : start + BATCH_SIZE]) for start in starts]
    )


def _measure_latency(learner: Learner, images: Images) -> dict[str, float]:
    """Return the median latency of a single image in ms, and this process's peak memory in MiB."""
    latencies_ms = []
    for number in range(LATENCY_RUNS):
        image = images[number % len(images)]
        began = time.perf_counter()
        learner.predict_proba([image])
        latencies_ms.append(1000 * (time.perf_counter() - began))
    latency_ms = statistics.median(latencies_ms)
    return {"latency_ms": latency_ms, "peak_memory_mib": peak_memory_mib()}


def _corrupt(
    settings: EvaluateSettings,
    source_model: TrainedModel,
    learner: Learner,
    images: Images,
    labels: npt.NDArray[np.int64],
) -> dict[str, list[float]]:
    """Return the accuracies on randomly drawn images, by kind of corruption.

    Each list starts with the accuracy on the original images, followed by one for each severity.
    Returns {} if `corruption_images` is 0.

    Args:
        settings: number of images to draw.
        source_model: model whose seed the images and corruptions are drawn with.
        learner: the loaded model.
        images: evaluation images, N times H,W,3 uint8.
        labels: N class indices.
    """
    count = min(settings.corruption_images, len(images))
    if not count:
        return {}
    random = np.random.default_rng(derive_seed(source_model.seed, "corruptions"))
    indices = np.sort(random.choice(len(images), count, replace=False))
    originals, truth = [images[index] for index in indices], labels[indices]
    original_accuracy = float((learner.predict_proba(originals).argmax(axis=1) == truth).mean())
    accuracies_by_kind = {}
    for kind in track(CORRUPTIONS, "Corrupting", total=len(CORRUPTIONS)):
        accuracies = [original_accuracy]
        for severity in SEVERITIES:
            seeds = [
                derive_seed(source_model.seed, "corruptions", kind, severity, index)
                for index in range(count)
            ]
            corrupted = [
                corrupt(image, kind, severity, seed)
                for image, seed in zip(originals, seeds, strict=True)
            ]
            accuracies.append(
                float((learner.predict_proba(corrupted).argmax(axis=1) == truth).mean())
            )
        accuracies_by_kind[kind] = accuracies
    return accuracies_by_kind


def _tag_version(
    source_model: TrainedModel, metrics: Mapping[str, float], *, is_own_split: bool
) -> None:
    """Tag the version, if there is one, with its accuracy on the model's own test split."""
    if is_own_split and source_model.version is not None:
        tags = {
            TESTED: f"{metrics['accuracy']:.4f}",
            TESTED_INTERVAL: format_interval(metrics),
        }
        tag_version(source_model.tracking_uri, source_model.version, tags)


def _store_threshold(
    source_model: TrainedModel, result: EvaluationResult, settings: EvaluateSettings
) -> None:
    """Tag the version with its confidence threshold; do nothing without a version or threshold."""
    if source_model.version is None or result.selection is None:
        return
    threshold = result.selection.threshold
    tags = {THRESHOLD: repr(threshold), "target_precision": settings.target_precision}
    tag_version(source_model.tracking_uri, source_model.version, tags)
    log.info(
        "%s marks predictions below a confidence of %.4f as unsure",
        source_model.version.uri,
        threshold,
    )
