"""Settings and configuration of `tune`. Imports neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.config import (
    TRAIN_ONLY,
    TrainConfig,
    check_no_train_settings,
    compose,
    compose_train,
)
from eyevsai.core.paths import expand
from eyevsai.core.settings import Setting, list_settings, split_settings
from eyevsai.executors.settings import ExecutorSettings
from eyevsai.tuning.settings import TuneSettings


def tune_settings(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """Return the settings of `tune` for a model with these settings of `train`.

    These are the settings of `train` that also apply to trials, those of the study, and those of
    the executor.
    """
    return (
        *(setting for setting in settings if setting.name not in TRAIN_ONLY),
        *list_settings(TuneSettings),
        *list_settings(ExecutorSettings),
    )


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
        return expand(self.trials.run.state_dir)


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
