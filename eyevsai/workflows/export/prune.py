"""prune: a smaller network made of a trained one, as a new version of it."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import replace

import numpy as np

from eyevsai.config import compose_train
from eyevsai.core.errors import JobError, UserError
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import Split
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.learner import Learner, NetworkModel
from eyevsai.models.pruning import check_installed
from eyevsai.registry.versions import find_version, tag_version
from eyevsai.store.tags import JOB, PRUNED_FROM
from eyevsai.training.settings import NetworkSettings, UnfreezingSettings
from eyevsai.workflows.job_context import JobContext
from eyevsai.workflows.train.session import TrainingSession
from eyevsai.workflows.trained_model import TrainedModel

log = logging.getLogger("eyevsai")

# begins the metrics of a run, and the tags of a version, that say what pruning changed
PRUNE = "prune"
TIMED, TURNS = 64, 7  # images that are predicted at once, and how often


def prune(source_model: TrainedModel, settings: ExportSettings, job: JobContext) -> str:
    """Prunes a model's network, trains what is left, and registers it; returns the URI of the new
    version.

    Raises:
        UserError: the model has no network, or none that could lose as much.
        JobError: the store took no version.
    """
    check_installed()
    before, learner = source_model.load(), source_model.load()
    if not isinstance(learner, NetworkModel):
        raise UserError(f"{learner.family} has no network, which --prune is for: leave it out.")
    dataset = source_model.load_dataset(data_dir=settings.data_dir, cache_dir=settings.cache_dir)
    data = dataset.open(learner.preprocessing)
    config = compose_train(
        {name: value for name, value in source_model.config.items() if value is not None}
    )
    assert isinstance(config.model.settings, NetworkSettings | UnfreezingSettings)
    recovering = config.model.settings.recovery_settings(settings.prune_epochs)
    config = replace(config, model=replace(config.model, settings=recovering))
    learner.prune(settings.prune)
    learner.settings, learner.seed = recovering, config.run.seed
    name = ModelName(dataset.name, learner.family, learner.variation)
    tags = {JOB: "train", **vars(name), PRUNED_FROM: source_model.title}
    title = f"{source_model.name} pruned by {settings.prune:g}"
    with job.start_run(title, tags, is_additional=True) as run:
        session = TrainingSession(config, learner, data, name, run)
        session.log_start()
        learner.fit(data.train, data.valid, session.log_epoch)
        scores = session.evaluate()
        metrics = _compare(before, learner, data.valid)
        run.log_metrics({f"{PRUNE}/{name}": value for name, value in metrics.items()})
        uri = session.register(scores, checks_classes=False)  # those of the version that was named
    if uri is None:
        raise JobError(
            f"Run {run.run_id} has the pruned model, but the store took no version of it. Export "
            f"it with --run {run.run_id} once the store answers."
        )
    _tell(source_model, uri, metrics)
    return uri


def _compare(before: Learner, after: Learner, valid: Split) -> dict[str, float]:
    """Accuracy on valid, size and speed of two models."""
    if isinstance(before, NetworkModel) and isinstance(after, NetworkModel):
        before.network.to(next(after.network.parameters()).device)
    labels, pixels = valid.labels.numpy(), valid.arrays()
    metrics = dict[str, float]()
    for when, learner in (("before", before), ("after", after)):
        metrics |= {
            f"accuracy_{when}": float((learner.predict_proba(pixels).argmax(1) == labels).mean()),
            f"parameters_{when}": learner.num_parameters(),
            f"mflops_{when}": (learner.summary().flops or 0) / 1e6,
            f"size_bytes_{when}": sum(
                tensor.numel() * tensor.element_size() for tensor in learner.tensors().values()
            ),
        }
    return metrics | _time(before, after, [pixels[place % len(pixels)] for place in range(TIMED)])


def _time(before: Learner, after: Learner, images: list[np.ndarray]) -> dict[str, float]:
    """Images per second of two models, in turns."""
    took: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(TURNS):
        for when, learner in (("before", before), ("after", after)):
            began = time.perf_counter()
            learner.predict_proba(images)
            took[when].append(time.perf_counter() - began)
    return {
        f"images_per_s_{when}": TIMED / statistics.median(seconds) for when, seconds in took.items()
    }


def _tell(source_model: TrainedModel, uri: str, metrics: dict[str, float]) -> None:
    told = {f"{PRUNE}.{name}": f"{value:.6g}" for name, value in metrics.items()}
    tag_version(
        source_model.tracking_uri,
        find_version(source_model.tracking_uri, uri),
        told | {PRUNED_FROM: source_model.title},
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
