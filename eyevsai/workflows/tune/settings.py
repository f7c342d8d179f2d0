"""Settings and configuration of `tune`. Imports neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eyevsai.config import (
    TRAIN_ONLY,
    TrainConfig,
    check_no_train_settings,
    compose,
    compose_train,
    train_settings,
)
from eyevsai.core.call_settings import CallSettings
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


def tune_settings_of(model: str | None, variation: str | None = None) -> tuple[Setting, ...]:
    """Return the settings of `tune` for a model, selected as with `--model` and `--variation`."""
    return tune_settings(train_settings(model, variation))


@dataclass(frozen=True)
class TuneConfig:
    """Configuration of `tune`."""

    trials: TrainConfig
    explicit: Mapping[str, Any]  # settings of trials that the user set; no trial changes them
    tuning: TuneSettings
    executor: ExecutorSettings
    call: CallSettings

    @property
    def state_dir(self) -> Path:
        """Folder of run state on this machine."""
        return expand(self.trials.run.state_dir)

    def repeatable(self) -> dict[str, Any]:
        """Return the settings by name with which `tune` repeats the study.

        Of the model settings, only those that the user set: the others are searched, or defaults.
        """
        of_model = asdict(self.trials.model.settings).keys() - self.explicit.keys()
        values = self.trials.flat() | asdict(self.tuning) | asdict(self.executor)
        omitted = {*of_model, *TRAIN_ONLY}
        return {name: value for name, value in values.items() if name not in omitted}


def compose_tune(values: Mapping[str, Any]) -> TuneConfig:
    """Return the configuration of a study from explicit `values` by setting name.

    Raises:
        UserError: a name is unknown, or a value is not allowed.
    """
    check_no_train_settings(values)
    tune_only, explicit = split_settings(values, TuneSettings, ExecutorSettings, CallSettings)
    trials = compose_train(explicit, "tune", tune_only)
    tuning, executor = compose(TuneSettings, values), compose(ExecutorSettings, values)
    call = compose(CallSettings, values)
    return TuneConfig(trials, explicit, tuning, executor, call)
