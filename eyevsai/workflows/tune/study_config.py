"""Configuration of a study, and the study opened with its search space, dataset and storage."""

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
from eyevsai.workflows.train.tuned_settings import format_changes

if TYPE_CHECKING:
    from eyevsai.tuning.study import Study

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class TuneConfig:
    """Configuration of `tune`."""

    trials: TrainConfig
    explicit: Mapping[str, Any]  # settings of trials that the user set; no trial changes them
    tuning: TuneSettings
    executor: ExecutorSettings

    @property
    def state_dir(self) -> Path:
        """Folder of run state on this machine."""
        return Path(self.trials.run.state_dir).expanduser()


def compose_tune(values: Mapping[str, Any]) -> TuneConfig:
    """Return the configuration of a study from explicit `values` by setting name.

    Raises:
        UserError: a name is unknown, or a value is not allowed.
    """
    check_no_train_settings(values)
    tune_only, explicit = split_settings(values, TuneSettings, ExecutorSettings)
    trials = compose_train(explicit, "tune", tune_only)
    tuning, executor = compose(TuneSettings, values), compose(ExecutorSettings, values)
    return TuneConfig(trials, explicit, tuning, executor)


@dataclass(frozen=True)
class OpenStudy:
    """Study with the configuration, dataset and tracking store of its trials."""

    config: TuneConfig
    study: Study
    dataset: Dataset
    tracking_uri: str

    @property
    def name(self) -> ModelName:
        """Dataset, family and variation of the models of its trials."""
        return ModelName(
            self.dataset.name, self.config.trials.model.family, self.config.trials.model.variation
        )


def open_study(config: TuneConfig, job: JobContext) -> OpenStudy:
    """Open the study of a configuration, or create it with a first trial of the default settings.

    Checks everything that trials depend on. Logs the defaults that had to be moved into the search
    space.

    Raises:
        UserError: the dataset, the classes, a setting, the search space or the storage is
            unusable, or an earlier study of this name had another configuration.
    """
    dataset = load_dataset(config.trials.data)
    model = config.trials.model
    learner = build(
        model.family, model.variation, model.settings, dataset.classes, config.trials.run.seed
    )
    learner.prepare(dataset.labels_of("train"))
    tracking_uri = job.tracking_uri
    model_name = ModelName(dataset.name, model.family, model.variation)
    class_change = config.trials.data.class_change
    check_classes(tracking_uri, model_name, dataset.classes, consented=class_change)
    from eyevsai.tuning.search_space import build_search_space
    from eyevsai.tuning.study import Study, StudyStorage

    space = build_search_space(type(model.settings), config.explicit, config.tuning.space)
    name = config.tuning.study or model_name.registered
    folder = studies_dir(tracking_uri, config.state_dir)
    storage = StudyStorage(config.tuning.storage, folder / f"{name}{JOURNAL}")
    study = Study(name, storage, config.tuning, space, getattr(model.settings, "epochs", 1))
    trained_on = {
        "model": f"{model.family}/{model.variation}",
        "preset": model.preset,
        "data": dataset.fingerprint,
        "split": dataset.split_sha256,
        "seed": config.trials.run.seed,
    }
    study.check_or_store_space({**space.describe(), **trained_on})
    if moved := study.enqueue_defaults(model.settings):
        log.info(
            "Trial 0 uses the defaults, moved into the search space: %s", format_changes(moved)
        )
    return OpenStudy(config, study, dataset, tracking_uri)


def trial_config(config: TuneConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a trial with these `values` by model setting.

    Raises:
        UserError: the values conflict with each other.
    """
    model = config.trials.model
    return replace(config.trials, model=replace(model, settings=replace(model.settings, **values)))
