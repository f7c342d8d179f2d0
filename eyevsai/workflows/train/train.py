"""Workflow of `train`: train a model on a dataset and register it as a version."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType

from eyevsai.config import TrainConfig, check_minutes, shared_settings
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import Dataset, load_dataset
from eyevsai.registry.registration import check_name
from eyevsai.store.tags import JOB
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.device import check_device
from eyevsai.workflows.distributed.launcher import launching_ranks
from eyevsai.workflows.distributed.rank import RankInfo, set_world_size
from eyevsai.workflows.job_context import JobContext, job_context
from eyevsai.workflows.registry.class_lists import check_classes
from eyevsai.workflows.shutdown import ShutdownHandler, ending_with_parent
from eyevsai.workflows.train.fingerprint import save_fingerprint, verify_fingerprint
from eyevsai.workflows.train.resume import find_interrupted, restore_config
from eyevsai.workflows.train.session import TrainingSession
from eyevsai.workflows.train.setup import (
    adapt_image_size,
    adapt_to_size,
    build_learner_and_data,
    describe_data_limits,
    limit_to_data,
    log_default_data,
)
from eyevsai.workflows.train.time_plan import Timing, plan_time
from eyevsai.workflows.train.tuned_settings import describe_changes, describe_tuned, use_tuned

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class Trained:
    """Result of a training run."""

    run_id: str
    model_uri: str | None  # None until `eyevsai sync`, if the tracking server was unreachable
    scores: dict[str, float]  # metrics of the best epoch on the valid split
    seconds: float


def train(
    config: TrainConfig,
    run_id: str | None = None,
    rank: RankInfo | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    started_at: float | None = None,
) -> Trained:
    """Train one model, log the run and register a version.

    Data, settings and store are checked before a run is created.

    Args:
        config: settings of the run, or of a run to resume.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.
        rank: rank of this process as set by torchrun; None outside of torchrun.
        tags: additional tags of the run.
        started_at: start of the call, from which `--minutes` counts, in seconds of
            `time.monotonic`; now by default.

    Raises:
        UserError: the data, a setting or the store is unusable.
        JobError: training failed, for example because the loss became NaN.
    """
    started_at = time.monotonic() if started_at is None else started_at
    with job_context(config.run.state_dir, run_id) as job, ExitStack() as stack:
        if rank:
            stack.enter_context(ending_with_parent())
        config, resumed = set_world_size(config, rank), None
        if config.resume.resume:
            resumed = find_interrupted(config, job.tracking_uri)
        if resumed:
            config = restore_config(config, resumed)
        else:
            check_minutes(config)
        check_device(config.model.settings)
        launcher = stack.enter_context(launching_ranks(config, rank))
        if not resumed:
            log_default_data(config)
        dataset = load_dataset(config.data)  # before opening the store: most errors are in the data
        name = ModelName(dataset.name, config.model.family, config.model.variation)
        if not resumed:
            job.check_experiment(name.dataset)
        setting_tags: dict[str, str] = {}
        check_classes(job.tracking_uri, name, dataset.classes, consented=config.data.class_change)
        if not resumed:
            config, study = use_tuned(config, name, job.tracking_uri, dataset.classes)
            if study:
                setting_tags = {"tuned_from": study, "tuned_settings": describe_tuned(config)}
        config, timing, limits = _plan(config, dataset, started_at, job, is_new=not resumed)
        setting_tags |= {"limited_settings": limits} if limits else {}
        learner, data = build_learner_and_data(config, dataset)
        if resumed:
            force = config.resume.resume_force
            verify_fingerprint(dataset, learner.preprocessing, resumed, force=force)
        if launcher:
            launcher.join(config, dataset, learner)
        check_name(job.tracking_uri, name)
        title, is_numbered = config.run.run_name or str(name), config.run.run_name is None
        all_tags = {JOB: "train", **vars(name), **config.call.tags(), **tags}
        resumed_id = resumed.run_id if resumed else None
        changed = config.call.changed_parameters(config.flat(), shared_settings())
        with job.start_run(
            title, all_tags, resumed=resumed_id, changed=changed, is_numbered=is_numbered
        ) as run:
            session = TrainingSession(config, learner, data, name, run, timing.budget)
            return _fit_and_register(
                session, job.stop, timing, setting_tags, started_at, is_resumed=bool(resumed)
            )


def _plan(
    config: TrainConfig, dataset: Dataset, started_at: float, job: JobContext, *, is_new: bool
) -> tuple[TrainConfig, Timing, str]:
    """Return the configuration that data and time allow, its timing, and the changes as one line.

    Logs a line for each change; the changes are empty if there is none.

    Args:
        config: settings of the run.
        dataset: images of the run.
        started_at: start of the call, in seconds of `time.monotonic`.
        job: context of the workflow.
        is_new: choose image size and epochs; a resumed run has those of its first call.

    Raises:
        UserError: the settings conflict with each other, the data or the device.
    """
    num_images = len(dataset.labels_of("train"))
    planned = adapt_image_size(config, dataset) if is_new else config
    if is_new and not config.run.replay:  # a replay has the settings of its run
        planned = adapt_to_size(planned, num_images)
    planned, timing = plan_time(planned, dataset, started_at, job.tracking_uri, is_new=is_new)
    for note in describe_data_limits(planned, num_images):
        log.info("%s", note)
    limited = limit_to_data(planned, num_images)
    return limited, timing, describe_changes(config, limited)


def _fit_and_register(
    session: TrainingSession,
    stop: ShutdownHandler,
    timing: Timing,
    setting_tags: Mapping[str, str],
    started_at: float,
    *,
    is_resumed: bool,
) -> Trained:
    """Train, evaluate and register the model inside its run.

    Args:
        session: session of the started run.
        stop: cancellation token of the job, checked between training steps.
        timing: pace of the training, and its time budget.
        setting_tags: tags about settings that a study or the data changed.
        started_at: start of the job, in seconds of `time.monotonic`.
        is_resumed: the run was started by an earlier call.
    """
    config, run, data, learner = session.config, session.run, session.data, session.learner
    if is_resumed:
        session.logged_epochs = run.logged_epochs()
    else:
        session.log_start()
        if setting_tags:
            run.set_tags(setting_tags)
        save_fingerprint(config, data.dataset, learner.preprocessing, run.folder)
    checkpoints = Checkpoints(run.folder.checkpoints, config.run.checkpoint_every_s, stop)
    with session.epoch_log:
        learner.fit(data.train, data.valid, session.log_epoch, checkpoints, timing.pace)
    scores = session.evaluate()
    timing.log(run, len(session.history))
    model_uri = session.register(scores)
    return Trained(run.run_id, model_uri, scores, time.monotonic() - started_at)
