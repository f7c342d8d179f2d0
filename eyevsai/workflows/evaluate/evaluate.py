"""evaluate: what a trained model is worth on images that it has not seen."""

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
from eyevsai.core.progress import track
from eyevsai.core.toml import read_toml
from eyevsai.data.dataset import Dataset, Split, load_test_folder
from eyevsai.data.seeding import derive_seed
from eyevsai.data.settings import DataSettings
from eyevsai.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from eyevsai.evaluation.metrics import Probabilities
from eyevsai.evaluation.results import EvaluationResult, before_temperature
from eyevsai.evaluation.selective import evaluate_threshold, find_threshold
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.models.learner import Images, Learner
from eyevsai.registry.versions import TESTED, THRESHOLD, tag_version
from eyevsai.store.tags import JOB, SOURCE_RUN_ID
from eyevsai.tracking.finished_runs import reopen_run
from eyevsai.tracking.run import Run
from eyevsai.workflows.evaluate.log_results import EvaluationLogger
from eyevsai.workflows.job_context import JobContext, job_context, log_settings
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model

log = logging.getLogger("eyevsai")

AT_ONCE = 128  # images between two steps of the progress bar
LATENCIES = 20  # single predictions of which the median is taken


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    model: str
    run_id: str  # where it is logged
    dataset: str
    images: int
    metrics: dict[str, float]
    seconds: float


def evaluate(
    settings: EvaluateSettings,
    run_id: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Evaluated:
    """Evaluate a trained model and log the results: on its own run; for other data, or
    if that is gone, on the call's.

    `run_id` is the run that `mlflow run` made for this call, if one did; the call's run gets `tags`
    besides its own.

    Raises:
        UserError: something a person must mend.
    """
    began = time.monotonic()
    with job_context(settings.state_dir, run_id) as job:
        source_model = find_trained_model(job.tracking_uri, settings.run, settings.model_uri)
        learner = source_model.load()
        test_data = _load_evaluation_data(settings, source_model, learner)

        about = {
            JOB: "evaluate",
            SOURCE_RUN_ID: source_model.run_id,
            "model_uri": source_model.title,
            **tags,
        }
        title = f"evaluate {source_model.name}"
        with job.start_run(title, about) as call:
            result = _evaluate(settings, source_model, learner, test_data)
            own = settings.data is None
            results_log = EvaluationLogger(
                result,
                test_data.dataset,
                test_data.split,
                learner,
                source_model.title,
                source_model.weights,
                own,
            )
            with _run_of_results(job, source_model, call, own=own) as run:
                results_log.log_to(run)
            _tag_version(source_model, results_log.metrics, own=own)
            _store_threshold(source_model, result, settings)
            log_settings(call, settings)
        return Evaluated(
            source_model.title,
            run.run_id,
            test_data.dataset.name,
            len(test_data.split),
            results_log.metrics,
            time.monotonic() - began,
        )


def _run_of_results(
    job: JobContext, source_model: TrainedModel, call: Run, *, own: bool
) -> AbstractContextManager[Run]:
    """Reopen the model's run if it exists and its own test split was used; else use the call's."""
    if own and source_model.run is not None:
        return reopen_run(job.tracking_uri, source_model.run_id, job.state_dir)
    return nullcontext(call)


@dataclass(frozen=True)
class EvaluationData:
    """Images with the number of the model's class that each shows."""

    dataset: Dataset
    split: Split
    valid: Split | None


def _load_evaluation_data(
    settings: EvaluateSettings, source_model: TrainedModel, learner: Learner
) -> EvaluationData:
    folders = {"data_dir": settings.data_dir, "cache_dir": settings.cache_dir}
    if settings.data is None:
        dataset = source_model.load_dataset(**folders)
        data = dataset.open(learner.preprocessing)
        if not len(data.test):
            raise UserError(
                f"The test split of {dataset.name} is empty: the model was trained with "
                "--test-fraction 0. Judge it by other images with --data FOLDER."
            )
        return EvaluationData(dataset, data.test, data.valid)
    cache_dir = settings.cache_dir or str(source_model.config["cache_dir"])
    dataset = load_test_folder(DataSettings(data=settings.data, cache_dir=cache_dir))
    shown = sorted({item.label for item in dataset.samples})
    names = _map_classes(shown, learner.classes, _read_map(settings.class_map), source_model.title)
    _warn_of_training_images(dataset, source_model)
    whole = dataset.open(learner.preprocessing).test
    kept = [index for index, item in enumerate(dataset.samples) if names[item.label]]
    labels = whole.labels.new_tensor(
        [learner.classes.index(names[dataset.samples[index].label]) for index in kept]
    )
    split = replace(whole, rows=[whole.rows[index] for index in kept], labels=labels)
    return EvaluationData(dataset, split, None)


def _read_map(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    read = read_toml(path, "--class-map", '"their name" = "the model\'s name"')
    wrong = [name for name, value in read.items() if not isinstance(value, str)]
    if wrong:
        raise UserError(
            f'--class-map {path}: {wrong[0]} is no text. It has lines like "their name" = "the '
            "model's name\"."
        )
    return read


def _map_classes(
    theirs: Sequence[str], known: Sequence[str], mapping: Mapping[str, str], title: str
) -> dict[str, str]:
    """The model's name of each class of the data; empty for those that are left out."""
    names = {name: mapping.get(name, name) for name in theirs}
    if strange := [name for name in mapping if name not in theirs]:
        raise UserError(
            f"--class-map names classes that the data have not: {', '.join(strange[:10])}."
        )
    unknown = [name for name, mapped in names.items() if mapped and mapped not in known]
    if unknown:
        raise UserError(
            f"{title} does not know these classes of the data: {', '.join(unknown[:10])}. It knows "
            f"{', '.join(list(known)[:10])}{', ...' if len(known) > 10 else ''}. Name them with "
            "--class-map FILE.toml."
        )
    if not any(names.values()):
        raise UserError("--class-map leaves all classes of the data out.")
    if lacking := sorted(set(known) - set(names.values())):
        log.warning("No image shows %s: figures say nothing of them.", ", ".join(lacking[:10]))
    return names


def _warn_of_training_images(dataset: Dataset, source_model: TrainedModel) -> None:
    """Warns when images are among those that the model was trained on."""
    table = source_model.split_table()
    if table is None:
        log.warning(
            "The list of images that %s was trained on is gone with its run: whether it is "
            "judged by images that it knows cannot be told.",
            source_model.title,
        )
        return
    lines = table.splitlines()[1:]
    learned = {line.rpartition("\t")[2] for line in lines if line.startswith("train\t")}
    count = sum(item.record.digest in learned for item in dataset.samples)
    if count:
        log.warning(
            "%d of %d images were in the model's train split: it is judged by what it knows.",
            count,
            len(dataset.samples),
        )


def _evaluate(
    settings: EvaluateSettings, source_model: TrainedModel, learner: Learner, data: EvaluationData
) -> EvaluationResult:
    images, labels = data.split.arrays(), data.split.labels.numpy()
    began = time.perf_counter()
    probabilities = _predict(learner, images, "Predicting")
    rate = len(images) / (time.perf_counter() - began)
    selection = None
    if settings.target_precision is not None and data.valid is not None:
        valid = _predict(learner, data.valid.arrays(), "Predicting valid")
        threshold = find_threshold(valid, data.valid.labels.numpy(), settings.target_precision)
        if threshold is None:
            raise UserError(
                f"No confidence makes {settings.target_precision:g} of the valid images right. "
                "Ask for less with --target-precision."
            )
        selection = evaluate_threshold(probabilities, labels, threshold)
    return EvaluationResult(
        classes=learner.classes,
        labels=labels,
        probabilities=probabilities,
        uncalibrated=before_temperature(probabilities, learner.temperature),
        seed=source_model.seed,
        speed=_measure_latency(learner, images) | {"images_per_s": rate},
        corrupted=_corrupt(settings, source_model, learner, images, labels),
        selection=selection,
    )


def _predict(learner: Learner, images: Images, what: str) -> Probabilities:
    parts = track(range(0, len(images), AT_ONCE), what, total=len(images), unit=AT_ONCE)
    return np.concatenate(
        [learner.predict_proba(images[start : start + AT_ONCE]) for start in parts]
    )


def _measure_latency(learner: Learner, images: Images) -> dict[str, float]:
    """Milliseconds for a single image, and the most memory that this process has taken so far."""
    import resource
    import sys

    took = []
    for number in range(LATENCIES):
        image = images[number % len(images)]
        began = time.perf_counter()
        learner.predict_proba([image])
        took.append(1000 * (time.perf_counter() - began))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )
    return {"latency_ms": statistics.median(took), "peak_memory_mib": peak}


def _corrupt(
    settings: EvaluateSettings,
    source_model: TrainedModel,
    learner: Learner,
    images: Images,
    labels: npt.NDArray[np.int64],
) -> dict[str, list[float]]:
    """Accuracy by kind of corruption: of the images as they are, then at each severity."""
    count = min(settings.corruption_images, len(images))
    if not count:
        return {}
    random = np.random.default_rng(derive_seed(source_model.seed, "corruptions"))
    places = np.sort(random.choice(len(images), count, replace=False))
    some, truth = [images[place] for place in places], labels[places]
    whole = float((learner.predict_proba(some).argmax(axis=1) == truth).mean())
    found = {}
    for kind in track(CORRUPTIONS, "Corrupting", total=len(CORRUPTIONS)):
        accuracies = [whole]
        for severity in SEVERITIES:
            seeds = [
                derive_seed(source_model.seed, "corruptions", kind, severity, place)
                for place in range(count)
            ]
            spoiled = [
                corrupt(image, kind, severity, seed)
                for image, seed in zip(some, seeds, strict=True)
            ]
            accuracies.append(
                float((learner.predict_proba(spoiled).argmax(axis=1) == truth).mean())
            )
        found[kind] = accuracies
    return found


def _tag_version(source_model: TrainedModel, metrics: Mapping[str, float], *, own: bool) -> None:
    """Keeps the accuracy on the model's own test split where the registry is listed."""
    if own and source_model.version is not None:
        tag_version(
            source_model.tracking_uri, source_model.version, {TESTED: f"{metrics['accuracy']:.4f}"}
        )


def _store_threshold(
    source_model: TrainedModel, result: EvaluationResult, settings: EvaluateSettings
) -> None:
    if source_model.version is None or result.selection is None:
        return
    threshold = result.selection.threshold
    kept = {THRESHOLD: repr(threshold), "target_precision": settings.target_precision}
    tag_version(source_model.tracking_uri, source_model.version, kept)
    log.info("%s answers from a confidence of %.4f on", source_model.version.uri, threshold)
