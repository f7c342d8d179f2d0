"""The study that a command line means: its configuration, its space, its data and where it is
kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.config import TrainConfig, check_no_train_settings, compose, compose_train
from eyevsai.core.names import ModelName
from eyevsai.core.settings import split_settings
from eyevsai.data.dataset import Dataset, load_dataset
from eyevsai.executors.settings import ExecutorSettings
from eyevsai.models.factory import build
from eyevsai.store.uris import studies_dir
from eyevsai.tuning.settings import JOURNAL, TuneSettings
from eyevsai.workflows.job_context import JobContext
from eyevsai.workflows.registry.class_lists import check_classes
from eyevsai.workflows.train.tuned_settings import spell_changes

if TYPE_CHECKING:
    from eyevsai.tuning.study import Study

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class TuneConfig:
    """All that `tune` needs to know. `given` are the settings of trials that were typed: no trial
    changes them.
    """

    trials: TrainConfig
    given: Mapping[str, Any]
    tuning: TuneSettings
    executor: ExecutorSettings

    @property
    def state_dir(self) -> Path:
        """The folder of what this machine keeps of runs."""
        return Path(self.trials.run.state_dir).expanduser()


def compose_tune(given: Mapping[str, Any]) -> TuneConfig:
    """The configuration of a study of `given` values, by setting name.

    Raises:
        UserError: a name or a value that is not allowed.
    """
    check_no_train_settings(given)
    own, rest = split_settings(given, TuneSettings, ExecutorSettings)
    trials = compose_train(rest, "tune", own)
    return TuneConfig(trials, rest, compose(TuneSettings, given), compose(ExecutorSettings, given))


@dataclass(frozen=True)
class OpenStudy:
    """A study with all that its trials need."""

    config: TuneConfig
    study: Study
    dataset: Dataset
    tracking_uri: str

    @property
    def name(self) -> ModelName:
        """What its models are named after."""
        return ModelName(
            self.dataset.name, self.config.trials.model.family, self.config.trials.model.variation
        )


def open_study(config: TuneConfig, job: JobContext) -> OpenStudy:
    """Open the study of a configuration in the store of a job; all mistakes are found here.

    Raises:
        UserError: whatever a person must mend before trials are run.
    """
    dataset = load_dataset(config.trials.data)
    model = config.trials.model
    learner = build(
        model.family, model.variation, model.settings, dataset.classes, config.trials.run.seed
    )
    learner.prepare(dataset.labels_of("train"))
    tracking_uri = job.tracking_uri
    own = ModelName(dataset.name, model.family, model.variation)
    check_classes(tracking_uri, own, dataset.classes, consented=config.trials.data.class_change)
    from eyevsai.tuning.search_space import build_search_space
    from eyevsai.tuning.study import Study, StudyStorage

    space = build_search_space(type(model.settings), config.given, config.tuning.space)
    name = config.tuning.study or own.registered
    folder = studies_dir(tracking_uri, config.state_dir)
    place = StudyStorage(config.tuning.storage, folder / f"{name}{JOURNAL}")
    study = Study(name, place, config.tuning, space, getattr(model.settings, "epochs", 1))
    about = {
        "model": f"{model.family}/{model.variation}",
        "preset": model.preset,
        "data": dataset.fingerprint,
        "split": dataset.split_sha256,
        "seed": config.trials.run.seed,
    }
    study.check_or_store_space({**space.describe(), **about})
    if moved := study.enqueue_defaults(model.settings):
        log.info(
            "Trial 0 takes the defaults, but those outside the space: %s", spell_changes(moved)
        )
    return OpenStudy(config, study, dataset, tracking_uri)


def trial_config(config: TuneConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration of one trial.

    Raises:
        UserError: values that do not go together.
    """
    model = config.trials.model
    return replace(config.trials, model=replace(model, settings=replace(model.settings, **values)))
