"""Pruning of a trained network, registered as a new version."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import replace

import numpy as np

from eyevsai.config import TrainConfig, compose_train, explicit_settings
from eyevsai.core.errors import JobError, UserError
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import Split
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.learner import Learner, NetworkModel
from eyevsai.models.pruning import check_installed
from eyevsai.registry.lookup import find_version
from eyevsai.registry.versions import tag_version
from eyevsai.store.tags import JOB, PRUNED_FROM, SOURCE_RUN_ID
from eyevsai.training.settings import NetworkSettings, UnfreezingSettings
from eyevsai.workflows.job_context import JobContext
from eyevsai.workflows.train.session import TrainingSession
from eyevsai.workflows.trained_model import TrainedModel

log = logging.getLogger("eyevsai")

# prefix of metrics and version tags that compare the model before and after pruning
PRUNE = "prune"
TIMED_IMAGES, TIMED_RUNS = 64, 7  # images of one timed prediction, and predictions per model


def prune(source_model: TrainedModel, settings: ExportSettings, job: JobContext) -> str:
    """Prune a model's network, train it again, and register it; return the new version's URI.

    The training takes `settings.prune_epochs`; other settings are those of the model's training
    run. Metrics of the new run and tags of the new version compare the pruned model with the
    original on the valid split.

    Args:
        source_model: the model to prune; it is unchanged.
        settings: share of the channels to prune, and the number of epochs.
        job: context of the workflow, which the training run is started in.

    Raises:
        UserError: torch_pruning is not installed, the model has no network, its data changed, or
            the network cannot be pruned as much.
        JobError: the new version was not registered, because the store is unreachable.
    """
    check_installed()
    before, learner = source_model.load(), source_model.load()
    if not isinstance(learner, NetworkModel):
        raise UserError(
            f"--prune requires a model with a network, which {learner.family} is not. Omit --prune."
        )
    dataset = source_model.load_dataset(data_dir=settings.data_dir, cache_dir=settings.cache_dir)
    data = dataset.open(learner.preprocessing)
    config = _compose_recovery(source_model, settings.prune_epochs)
    learner.prune(settings.prune)
    learner.settings, learner.seed = config.model.settings, config.run.seed
    name = ModelName(dataset.name, learner.family, learner.variation)
    tags = {JOB: "train", **vars(name), **_source_tags(source_model)}
    title = f"{source_model.name} pruned by {settings.prune:g}"
    with job.start_run(title, tags, is_additional=True) as run:
        session = TrainingSession(config, learner, data, name, run)
        session.log_start()
        learner.fit(data.train, data.valid, session.log_epoch)
        scores = session.evaluate()
        metrics = _compare(before, learner, data.valid)
        run.log_metrics({f"{PRUNE}_{name}": value for name, value in metrics.items()})
        # the classes are those of the source model
        uri = session.register(scores, checks_classes=False)
    if uri is None:
        raise JobError(
            f"The pruned model of run {run.run_id} was not registered: the store is unreachable. "
            f"Run eyevsai sync when it is reachable, then export it with --run {run.run_id}."
        )
    _record_changes(source_model, uri, metrics)
    return uri


def _compose_recovery(source_model: TrainedModel, epochs: int) -> TrainConfig:
    """Return the settings of a model's training run, for a recovery training of some epochs."""
    config = compose_train(explicit_settings(source_model.config))
    assert isinstance(config.model.settings, NetworkSettings | UnfreezingSettings)
    recovery = config.model.settings.recovery_settings(epochs)
    return replace(config, model=replace(config.model, settings=recovery))


def _compare(before: Learner, after: Learner, valid: Split) -> dict[str, float]:
    """Return accuracy on the valid split, size and speed of a model before and after pruning."""
    if isinstance(before, NetworkModel) and isinstance(after, NetworkModel):
        before.network.to(next(after.network.parameters()).device)
    labels, pixels = valid.labels.numpy(), valid.arrays()
    metrics = dict[str, float]()
    for suffix, learner in (("before", before), ("after", after)):
        metrics |= {
            f"accuracy_{suffix}": float((learner.predict_proba(pixels).argmax(1) == labels).mean()),
            f"parameters_{suffix}": learner.num_parameters(),
            f"mflops_{suffix}": (learner.summary().flops or 0) / 1e6,
            f"size_bytes_{suffix}": sum(
                tensor.numel() * tensor.element_size() for tensor in learner.tensors().values()
            ),
        }
    images = [pixels[index % len(pixels)] for index in range(TIMED_IMAGES)]
    return metrics | _measure_speed(before, after, images)


def _measure_speed(before: Learner, after: Learner, images: list[np.ndarray]) -> dict[str, float]:
    """Return the median images per second of two models, which predict alternately."""
    durations_s: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(TIMED_RUNS):
        for suffix, learner in (("before", before), ("after", after)):
            began = time.perf_counter()
            learner.predict_proba(images)
            durations_s[suffix].append(time.perf_counter() - began)
    return {
        f"images_per_s_{suffix}": TIMED_IMAGES / statistics.median(seconds)
        for suffix, seconds in durations_s.items()
    }


def _source_tags(source_model: TrainedModel) -> dict[str, str]:
    """Return tags that name the pruned model; the run id is valid after its model was renamed."""
    return {PRUNED_FROM: source_model.title, SOURCE_RUN_ID: source_model.run_id}


def _record_changes(source_model: TrainedModel, uri: str, metrics: dict[str, float]) -> None:
    """Log what pruning changed, and record it in tags of the new version."""
    tags = {f"{PRUNE}.{name}": f"{value:.6g}" for name, value in metrics.items()}
    tag_version(
        source_model.tracking_uri,
        find_version(source_model.tracking_uri, uri),
        tags | _source_tags(source_model),
    )
    log.info(
        "%s is %s pruned: valid accuracy %.4f -> %.4f, %.2f -> %.2f million parameters, %.0f -> "
        "%.0f images/s",
        uri,
        source_model.title,
        metrics["accuracy_before"],
        metrics["accuracy_after"],
        metrics["parameters_before"] / 1e6,
        metrics["parameters_after"] / 1e6,
        metrics["images_per_s_before"],
        metrics["images_per_s_after"],
    )
