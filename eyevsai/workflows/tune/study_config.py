"""The study of a configuration, opened with its search space, dataset and storage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from eyevsai.config import TrainConfig
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import Dataset, load_dataset
from eyevsai.models.factory import build
from eyevsai.store.uris import studies_dir
from eyevsai.training.device import check_device
from eyevsai.tuning.settings import TIMED_REPORTS, journal_path
from eyevsai.workflows.job_context import JobContext
from eyevsai.workflows.registry.class_lists import check_classes
from eyevsai.workflows.train.setup import (
    adapt_image_size,
    adapt_to_size,
    describe_data_limits,
    find_adapted_crops,
    log_default_data,
)
from eyevsai.workflows.train.tuned_settings import format_changes
from eyevsai.workflows.tune.settings import TuneConfig

if TYPE_CHECKING:
    from eyevsai.tuning.study import Study

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class OpenStudy:
    """Study with the configuration, dataset and tracking store of its trials."""

    config: TuneConfig
    study: Study
    dataset: Dataset
    tracking_uri: str
    notes: list[str]  # sentences about limits and conflicts of the search space

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
    from eyevsai.tuning.search_space import build_search_space
    from eyevsai.tuning.storage import StudyStorage
    from eyevsai.tuning.study import Study
    from eyevsai.workflows.tune.space_checks import check_space, limit_space

    model = config.trials.model
    # before the dataset is loaded, which takes longer
    check_device(model.settings)
    space = build_search_space(type(model.settings), config.explicit, config.tuning.space)
    log_default_data(config.trials)
    dataset = load_dataset(config.trials.data)
    train_labels = dataset.labels_of("train")
    trials = adapt_to_size(adapt_image_size(config.trials, dataset), len(train_labels))
    # fixed, so that a training with the settings of the study has them, too
    crops = find_adapted_crops(config.trials, trials)
    space = replace(
        space,
        fixed={
            **{name: value for name, value in crops.items() if name not in space.dimensions},
            **space.fixed,
        },
    )
    config = replace(config, trials=trials)
    model = trials.model
    space, notes = limit_space(config, space, len(train_labels))
    first, conflicts = check_space(config, space, len(train_labels))
    learner = build(
        model.family, model.variation, first.model.settings, dataset.classes, first.run.seed
    )
    learner.prepare(train_labels)
    tracking_uri = job.tracking_uri
    model_name = ModelName(dataset.name, model.family, model.variation)
    job.check_experiment(model_name.dataset)
    class_change = config.trials.data.class_change
    check_classes(tracking_uri, model_name, dataset.classes, consented=class_change)
    name = config.tuning.study or model_name.registered
    folder = studies_dir(tracking_uri, config.state_dir)
    storage = StudyStorage(config.tuning.storage, journal_path(folder, name))
    epochs = getattr(model.settings, "epochs", 1)
    if getattr(model.settings, "minutes", None) is not None:
        epochs = TIMED_REPORTS
    study = Study(name, storage, config.tuning, space, epochs, defaults=model.settings)
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
    notes = [*notes, *describe_data_limits(first, len(train_labels)), *conflicts]
    return OpenStudy(config, study, dataset, tracking_uri, notes)


def trial_config(config: TuneConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a trial with these `values` by model setting.

    They are explicit, so that the plan of a time budget does not change them.

    Raises:
        UserError: the values conflict with each other.
    """
    model = config.trials.model
    return replace(
        config.trials,
        model=replace(model, settings=replace(model.settings, **values)),
        explicit=config.trials.explicit | values.keys(),
    )
