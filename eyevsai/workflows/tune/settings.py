"""Settings of `tune`."""

from __future__ import annotations

from collections.abc import Sequence

from eyevsai.config import TRAIN_ONLY
from eyevsai.core.settings import Setting, list_settings
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
