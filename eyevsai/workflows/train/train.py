"""train: from images to a registered version that predicts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from eyevsai.config import TrainConfig
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import load_dataset
from eyevsai.data.parallel import IMPORTING
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.workflows.distributed.launcher import launching_ranks
from eyevsai.workflows.distributed.rank import RankInfo, set_world_size
from eyevsai.workflows.job_context import open_store_and_reap, start_job
from eyevsai.workflows.registry.class_lists import check_classes
from eyevsai.workflows.shutdown import (
    ShutdownHandler,
    ending_with_mlflow_run,
    ending_with_parent,
    handling_signals,
)
from eyevsai.workflows.train.resume import (
    find_interrupted,
    restore_config,
    save_fingerprint,
    verify_fingerprint,
)
from eyevsai.workflows.train.session import TrainingSession
from eyevsai.workflows.train.setup import build_learner_and_data
from eyevsai.workflows.train.tuned_settings import describe_tuned, use_tuned

if TYPE_CHECKING:
    from eyevsai.tracking.run import Run

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
    place: RankInfo | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Trained:
    """Trains one model, logs the run and registers a version.

    `run_id` is the run that `mlflow run` made for this call, if one did; `place` is this process's
    among those that torchrun started, if it did; the run gets `tags` besides its own. What is wrong
    with the data, the settings or the store is found before a run is made.

    Raises:
        UserError: something a person must mend, or (JobError) a loss that became NaN.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        stop = stack.enter_context(handling_signals())
        if run_id:
            stack.enter_context(ending_with_mlflow_run())
        if place:
            stack.enter_context(ending_with_parent())
        # mlflow takes seconds to import, while the images are read from disk
        importing = threading.Thread(
            target=import_module,
            args=("eyevsai.tracking.run_lifecycle",),
            name=IMPORTING,
            daemon=True,
        )
        importing.start()
        config, tracking_uri, resumed = set_world_size(config, place), None, None
        if config.resume.resume:
            # two threads that import one package at once can each find it half made
            importing.join()
            tracking_uri = open_store_and_reap(
                _state_root(config)
            )  # a run to go on with may be done
            resumed = find_interrupted(config, tracking_uri)
        if resumed:
            config = restore_config(config, resumed)
        met = stack.enter_context(launching_ranks(config, place))
        dataset = load_dataset(config.data)
        importing.join()
        tracking_uri = tracking_uri or open_store_and_reap(_state_root(config))
        name, study = ModelName(dataset.name, config.model.family, config.model.variation), None
        check_classes(tracking_uri, name, dataset.classes, consented=config.data.class_change)
        if not resumed:
            config, study = use_tuned(config, name, tracking_uri, dataset.classes)
        learner, data = build_learner_and_data(config, dataset)
        if resumed:
            verify_fingerprint(
                dataset, learner.preprocessing, resumed, anyway=config.resume.resume_anyway
            )
        if met:
            met.join(config, dataset, learner)
        with _start(
            config,
            name,
            tracking_uri,
            stop,
            RunSource(run_id, resumed.run_id if resumed else None, tags),
        ) as run:
            return _work(
                TrainingSession(config, learner, data, name, run),
                stop,
                began,
                study=study,
                resumed=bool(resumed),
            )


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


@dataclass(frozen=True)
class RunSource:
    """Where a run comes from: made by `mlflow run` for this call, an earlier one to go on with, or
    neither; and what the caller says of it.
    """

    given: str | None
    resumed: str | None
    tags: Mapping[str, str]


@contextmanager
def _start(
    config: TrainConfig,
    name: ModelName,
    tracking_uri: str,
    stop: ShutdownHandler,
    origin: RunSource,
) -> Iterator[Run]:
    """The run of this job, which ends as the block ends."""
    from eyevsai.registry.registration import check_name

    check_name(tracking_uri, name)
    title, tags = config.run.run_name or str(name), {"job": "train", **vars(name), **origin.tags}
    state_root = _state_root(config)
    with start_job(
        stop, tracking_uri, title, tags, state_root, given=origin.given, resumed=origin.resumed
    ) as run:
        yield run


def _state_root(config: TrainConfig) -> Path:
    return Path(config.run.state_root).expanduser()
