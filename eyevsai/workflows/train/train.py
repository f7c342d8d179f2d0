"""train: from images to a registered version that predicts."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType

from eyevsai.config import TrainConfig
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import load_dataset
from eyevsai.registry.registration import check_name
from eyevsai.store.tags import JOB
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.workflows.distributed.launcher import launching_ranks
from eyevsai.workflows.distributed.rank import RankInfo, set_world_size
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.registry.class_lists import check_classes
from eyevsai.workflows.shutdown import ShutdownHandler, ending_with_parent
from eyevsai.workflows.train.fingerprint import save_fingerprint, verify_fingerprint
from eyevsai.workflows.train.resume import find_interrupted, restore_config
from eyevsai.workflows.train.session import TrainingSession
from eyevsai.workflows.train.setup import build_learner_and_data
from eyevsai.workflows.train.tuned_settings import describe_tuned, use_tuned

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class Trained:
    """What a training run left behind."""

    run_id: str
    model_uri: str | None
    scores: dict[str, float]
    seconds: float


def train(
    config: TrainConfig,
    run_id: str | None = None,
    rank: RankInfo | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Trained:
    """Trains one model, logs the run and registers a version.

    `run_id` is the run that `mlflow run` made for this call, if one did; `rank` is this process's
    among those that torchrun started, if it did; the run gets `tags` besides its own. What is wrong
    with the data, the settings or the store is found before a run is made.

    Raises:
        UserError: something a person must mend, or (JobError) a loss that became NaN.
    """
    began = time.monotonic()
    with job_context(config.run.state_dir, run_id) as job, ExitStack() as stack:
        if rank:
            stack.enter_context(ending_with_parent())
        config, resumed = set_world_size(config, rank), None
        if config.resume.resume:
            resumed = find_interrupted(config, job.tracking_uri)
        if resumed:
            config = restore_config(config, resumed)
        launcher = stack.enter_context(launching_ranks(config, rank))
        dataset = load_dataset(config.data)  # before the store: most mistakes are in the data
        name, study = ModelName(dataset.name, config.model.family, config.model.variation), None
        check_classes(job.tracking_uri, name, dataset.classes, consented=config.data.class_change)
        if not resumed:
            config, study = use_tuned(config, name, job.tracking_uri, dataset.classes)
        learner, data = build_learner_and_data(config, dataset)
        if resumed:
            verify_fingerprint(
                dataset, learner.preprocessing, resumed, force=config.resume.resume_force
            )
        if launcher:
            launcher.join(config, dataset, learner)
        check_name(job.tracking_uri, name)
        title = config.run.run_name or str(name)
        about = {JOB: "train", **vars(name), **tags}
        resumed_id = resumed.run_id if resumed else None
        with job.start_run(title, about, resumed=resumed_id) as run:
            session = TrainingSession(config, learner, data, name, run)
            return _work(session, job.stop, began, study=study, resumed=bool(resumed))


def _work(
    session: TrainingSession,
    stop: ShutdownHandler,
    began: float,
    *,
    study: str | None,
    resumed: bool,
) -> Trained:
    """All that is done inside the run."""
    config, run, data, learner = session.config, session.run, session.data, session.learner
    if resumed:
        session.logged = run.logged_epochs()
    else:
        session.log_start()
        if study:
            run.set_tags({"tuned_from": study, "tuned_settings": describe_tuned(config)})
        save_fingerprint(config, data.dataset, learner.preprocessing, run.folder)
    checkpoints = Checkpoints(run.folder.checkpoints, config.run.checkpoint_every_s, stop)
    learner.fit(data.train, data.valid, session.log_epoch, checkpoints)
    scores = session.evaluate()
    model_uri = session.register(scores)
    return Trained(run.run_id, model_uri, scores, time.monotonic() - began)
