"""Configuration of `train-all`: its settings, and the jobs of the grid.

Imports neither torch nor MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.config import (
    TrainConfig,
    compose,
    compose_data,
    compose_train,
    find_state_dir,
    train_settings,
)
from eyevsai.core.call_settings import CallSettings
from eyevsai.core.errors import UserError
from eyevsai.core.names import ModelName, choose_listed
from eyevsai.core.paths import expand
from eyevsai.core.settings import as_flag, split_settings
from eyevsai.data.catalog import EMBEDDED, UNIONS, list_datasets
from eyevsai.data.settings import DataSettings
from eyevsai.executors.settings import ExecutorSettings, TrainAllSettings
from eyevsai.formats.factory import parse_formats
from eyevsai.models.factory import FAMILIES, select_models


@dataclass(frozen=True)
class SweepJob:
    """Job of a sweep: the training of one model on one dataset."""

    name: ModelName
    explicit: Mapping[str, Any]  # explicit settings of `train` by name
    config: TrainConfig  # composed from them


@dataclass(frozen=True)
class TrainAllConfig:
    """Configuration of a sweep."""

    sweep: TrainAllSettings
    executor: ExecutorSettings
    explicit: Mapping[str, Any]  # settings of `train` that the user set, for all models
    jobs: Sequence[SweepJob]
    call: CallSettings

    @property
    def state_dir(self) -> Path:
        """Folder of run state on this machine."""
        return find_state_dir(self.explicit)

    @property
    def trials(self) -> int:
        """Number of trials of the study before each training; 0 without tuning."""
        return self.sweep.tuning_trials if self.sweep.run_tuning else 0


def compose_train_all(values: Mapping[str, Any]) -> TrainAllConfig:
    """Return the configuration of a sweep from explicit `values` by setting name.

    Raises:
        UserError: a name is unknown, a value is not allowed, or a list contains an unknown model,
            dataset or format.
    """
    _, explicit = split_settings(values, TrainAllSettings, ExecutorSettings, CallSettings)
    settings = compose(TrainAllSettings, values)
    if settings.export is not None:
        parse_formats(settings.export)
    if settings.run_tuning and "tuned" in values:
        raise UserError("--tuned cannot be combined with --run-tuning. Use only one of them.")
    return TrainAllConfig(
        settings,
        compose(ExecutorSettings, values),
        explicit,
        compose_jobs(settings, explicit),
        compose(CallSettings, values),
    )


def compose_jobs(settings: TrainAllSettings, explicit: Mapping[str, Any]) -> list[SweepJob]:
    """Return the jobs of a grid, all models for each dataset.

    Args:
        settings: models and datasets of the grid; None means all.
        explicit: settings of `train` by name. Each job takes those that its model has.

    Raises:
        UserError: a model, variation or dataset is unknown (the message names the nearest one), a
            setting applies to none of the models, or two jobs have the same registered name.
    """
    models = select_models(",".join(FAMILIES) if settings.models is None else settings.models)
    datasets = _select_datasets(settings.datasets, explicit)
    if explicit.get("dataset_name") and len(datasets) > 1:
        raise UserError(
            f"--dataset-name {explicit['dataset_name']} cannot name {len(datasets)} datasets: "
            f"{', '.join(datasets)}. Choose one of them with --datasets."
        )
    allowed = {pair: {setting.name for setting in train_settings(*pair)} for pair in models}
    for name in explicit:
        if not any(name in names for names in allowed.values()):
            pairs = ", ".join(f"{model}/{variation}" for model, variation in models)
            raise UserError(f"{as_flag(name)} is not a setting of any chosen model: {pairs}.")
    jobs = []
    for dataset in datasets:
        for pair in models:
            values = {name: value for name, value in explicit.items() if name in allowed[pair]}
            values |= {"model": pair[0], "variation": pair[1], "dataset": dataset}
            model_name = ModelName(explicit.get("dataset_name") or dataset, *pair)
            jobs.append(SweepJob(model_name, values, compose_train(values)))
    _check_distinct_names(jobs)
    return jobs


def _select_datasets(listed: str | None, explicit: Mapping[str, Any]) -> list[str]:
    """Return the datasets in a comma-separated list, or by default all folders of the data dir.

    The default excludes the embedded dataset and the unions; without folders, it is the embedded
    dataset.

    Raises:
        UserError: a dataset is unknown, or the data dir was set and has no dataset.
    """
    data_dir = compose_data(explicit).data_dir
    root = expand(data_dir).absolute()
    names = list_datasets(root)
    if listed is not None:
        return choose_listed("dataset", listed, names)
    folders = [name for name in names if name != EMBEDDED and name not in UNIONS]
    if not folders and data_dir != DataSettings().data_dir:
        problem = "has no datasets" if root.is_dir() else "is not a folder"
        raise UserError(
            f"--data-dir {root} {problem}. Set --data-dir or EYEVSAI_DATA to a folder with one "
            f"subfolder for each dataset, or train the embedded one with --datasets {EMBEDDED}."
        )
    return folders or [EMBEDDED]


def _check_distinct_names(jobs: Iterable[SweepJob]) -> None:
    """Raise UserError if the models of two datasets have the same registered name."""
    by_name: dict[str, ModelName] = {}
    for job in jobs:
        other = by_name.setdefault(job.name.registered, job.name)
        if other != job.name:
            raise UserError(
                f"The models of the datasets {other.dataset!r} and {job.name.dataset!r} would "
                f"share the name {job.name.registered}. Rename one of the two folders."
            )
