"""The settings of tune."""

from __future__ import annotations

from collections.abc import Sequence

from eyevsai.config import OF_TRAIN
from eyevsai.core.settings import Setting, list_settings
from eyevsai.executors.settings import ExecutorSettings
from eyevsai.tuning.settings import TuneSettings


def tune_settings(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """Return the settings of `tune` for a model with these settings of `train`."""
    return (
        *(setting for setting in settings if setting.name not in OF_TRAIN),
        *list_settings(TuneSettings),
        *list_settings(ExecutorSettings),
    )
