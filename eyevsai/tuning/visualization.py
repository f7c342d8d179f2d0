"""Presentation of a study: best settings, table of trials, plots, and an interactive page."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from eyevsai.tuning.attributes import EPOCHS, ERROR, MINUTES, RUN_ID, SETTINGS
from eyevsai.tuning.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = "valid accuracy"
MIN_FOR_IMPORTANCE = 4  # complete trials; importances of fewer are meaningless


def describe_best(study: Study, best: FrozenTrial) -> dict[str, Any]:
    """Return the best trial's settings, value and run, and the baseline of the defaults.

    `epochs` is the configured number, None for a model without epochs; `minutes` is the time budget
    of a trial, None without one; `defaults` is None in a
    study without a trial of the defaults.
    """
    defaults = study.defaults()
    return {
        "trial": best.number,
        "run_id": best.user_attrs.get(RUN_ID),
        "accuracy": best.value,
        "epochs": best.user_attrs.get(EPOCHS),
        "minutes": best.user_attrs.get(MINUTES),
        "settings": best.user_attrs[SETTINGS],
        "searched": list(study.space.dimensions),
        "complete": sum(trial.state is TrialState.COMPLETE for trial in study.counted_trials()),
        "defaults": _describe_defaults(defaults) if defaults else None,
    }


def _describe_defaults(trial: FrozenTrial) -> dict[str, Any]:
    accuracy = trial.value if trial.state is TrialState.COMPLETE else None
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "accuracy": accuracy,
        "epochs": trial.user_attrs.get(EPOCHS),
    }


def trials_table(trials: Sequence[FrozenTrial]) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of a table of trials, without queued ones.

    The columns are number, state, value, epochs, seconds, settings, error and run id.
    """
    names = sorted({name for trial in trials for name in trial.params})
    columns = ["trial", "state", "accuracy", "epochs", "seconds", *names, "error", "run_id"]
    rows = [
        [
            trial.number,
            trial.state.name.lower(),
            trial.value,
            len(trial.intermediate_values),
            round(trial.duration.total_seconds(), 1) if trial.duration else None,
            *(trial.params.get(name) for name in names),
            trial.user_attrs.get(ERROR, ""),
            trial.user_attrs.get(RUN_ID, ""),
        ]
        for trial in trials
        if trial.state is not TrialState.WAITING
    ]
    return columns, rows


def plot_study(study: optuna.Study) -> dict[str, Figure]:
    """Return plots by name: history, parallel coordinates, slices and importances.

    Empty without complete trials; importances need `MIN_FOR_IMPORTANCE` of them, with different
    values.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _plottable_names(study):
            axes = getattr(plots, f"plot_{name}")(study, target_name=TARGET)
            first = axes.flat[0] if hasattr(axes, "flat") else axes
            figures[name] = first.figure
            plt.close(first.figure)  # pyplot keeps open figures in memory
    return figures


def render_page(study: optuna.Study) -> str:
    """Return a self-contained HTML page with interactive versions of the plots of `plot_study`."""
    from optuna import visualization

    parts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _plottable_names(study):
            figure = getattr(visualization, f"plot_{name}")(study, target_name=TARGET)
            parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    head = f"<!doctype html><meta charset='utf-8'><title>{study.study_name}</title>"
    return head + f"<h1>{study.study_name}</h1>" + "\n".join(parts)


def _plottable_names(study: optuna.Study) -> list[str]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    names = ["optimization_history", "parallel_coordinate", "slice"]
    values_differ = any(trial.value != complete[0].value for trial in complete)
    return (
        [*names, "param_importances"]
        if len(complete) >= MIN_FOR_IMPORTANCE and values_differ
        else names
    )
