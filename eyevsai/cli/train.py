"""Commands for training: train, tune and train-all."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import typer

from eyevsai import config
from eyevsai.cli.models import report
from eyevsai.cli.options import (
    UNPARSED,
    Json,
    check_no_train_options,
    with_options,
)
from eyevsai.cli.output import format_run_hint
from eyevsai.cli.parsing import with_hyphens
from eyevsai.cli.words import check_extra_arguments, take_folder
from eyevsai.core.call_settings import CallSettings
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import Setting, format_flags, list_settings
from eyevsai.core.terminal import wrap_items
from eyevsai.executors.settings import ExecutorSettings, TrainAllSettings
from eyevsai.workflows.config_source import with_config
from eyevsai.workflows.startup import starting
from eyevsai.workflows.sweep.settings import compose_train_all
from eyevsai.workflows.tune.settings import compose_tune, tune_settings, tune_settings_of

# settings of `train` that `train-all` does not have
SINGLE_RUN_ONLY = (
    "model",
    "variation",
    "dataset",
    "data",
    "run_name",
    "replay",
    "resume",
    "resume_force",
)
# settings that people change first, in the order of the help; a model has some of them
SAMPLES = ("data", "dataset")
LEARNING = (
    *("minutes", "epochs", "fine_tune_epochs", "lr", "fine_tune_lr"),
    *("batch_size", "image_size", "seed"),
)
MOST_USED_OF_TRAIN = (*SAMPLES, "model", "variation", *LEARNING)
MOST_USED_OF_TUNE = (*SAMPLES, "model", "variation", "n_trials", *LEARNING)
MOST_USED_OF_TRAIN_ALL = ("datasets", "models", "data_dir", "parallel_jobs", *LEARNING)


def add_to(app: typer.Typer, arguments: Sequence[str], settings: Sequence[Setting]) -> None:
    """Add these commands to the application.

    Args:
        app: the application.
        arguments: words of the command line. The options of train-all are added only if it is
            called, because listing them imports the settings of all families.
        settings: settings of `train` for the model that the command line names.
    """
    options = app.command(
        context_settings=UNPARSED, rich_help_panel="Jobs", options_metavar="[OPTIONS] [FOLDER]"
    )
    options(with_options(train, settings, MOST_USED_OF_TRAIN))
    options(with_options(tune, tune_settings(settings), MOST_USED_OF_TUNE))
    is_called = "train-all" in map(with_hyphens, arguments)
    app.command(name="train-all", rich_help_panel="Jobs")(
        with_options(train_all, train_all_settings() if is_called else (), MOST_USED_OF_TRAIN_ALL)
    )


def train(context: typer.Context, **values: Any) -> None:
    """Train a model, log the run and register a version.

    FOLDER is the same as --data FOLDER. With --model, the help includes the options of that family.

    `mlflow run . -e train -P model=deep_v1` does the same in a run that MLflow creates; -P sets any
    option: -P lr=0.001.
    """
    started_at = time.monotonic()
    values = with_config(take_folder(context, values), "train", config.train_settings)
    check_extra_arguments(context, values)
    composed = config.compose_train(values)
    from eyevsai.workflows.distributed.rank import rank_from_env

    rank = rank_from_env()
    if rank is not None and rank.rank > 0:
        from eyevsai.workflows.distributed.worker import run_worker

        run_worker(composed, rank)
        return
    configure_logging()
    with starting(composed.data, composed.run, composed.model.settings, composed.call):
        from eyevsai.workflows.train.train import train as job

    result = job(composed, config.take_run_id(), rank, started_at=started_at)
    scores = result.scores
    print(
        f"{result.model_uri or 'no version yet'}\nvalid accuracy {scores['accuracy']:.4f}, loss "
        f"{scores['loss']:.4f}, in {result.seconds:.0f} s\n"
        f"run {result.run_id}; {format_run_hint(result.run_id)}"
    )


def tune(context: typer.Context, **values: Any) -> None:
    """Search for the best settings of a model. Options of train are fixed in all trials.

    FOLDER is the same as --data FOLDER.
    An existing study of the same name is resumed. `train` uses the best settings of a study.
    """
    check_no_train_options(context.args)
    values = with_config(take_folder(context, values), "tune", tune_settings_of)
    check_extra_arguments(context, values)
    composed = compose_tune(values)
    configure_logging()
    trials = composed.trials
    parts = (trials.data, trials.run, trials.model.settings, composed.tuning, composed.call)
    with starting(*parts):
        from eyevsai.workflows.tune.tune import tune as job

    result = job(composed, config.take_run_id())
    states = ", ".join(f"{count} {state}" for state, count in result.states.items())
    flags = [format_flags({name: value}) for name, value in result.settings.items()]
    print(f"study {result.study}: {states}")
    print(wrap_items(flags, f"best valid accuracy {result.accuracy:.4f} with ", " "))
    print(f"run {result.run_id}, in {result.seconds:.0f} s; {format_run_hint(result.run_id)}")


def train_all(as_json: Json = False, **values: Any) -> None:
    """Train all or the selected models on all or the selected datasets, as runs of one parent run.

    Jobs that were completed with the same settings, data and code are skipped. Options of train
    apply to all models that have them. Exit code 1 if a job failed; the other jobs are completed.
    """
    values = with_config(values, "train-all", lambda *_: train_all_settings())
    settings = config.compose(TrainAllSettings, values)
    if settings.generate_reports_only:
        _write_reports(settings, as_json)
        return
    composed = compose_train_all(values)
    configure_logging()
    with starting(composed.sweep, composed.call, state_dir=composed.state_dir, is_silent=as_json):
        from eyevsai.workflows.sweep.train_all import train_all as job

    result = job(composed, config.take_run_id())
    models = {
        **result.cached,
        **{name: status.value["model_uri"] for name, status in result.jobs.items()},
    }
    if as_json:
        reports = {name: str(path) for name, path in result.reports.items()}
        summary = {
            "run_id": result.run_id,
            "models": models,
            "reports": reports,
            "seconds": result.seconds,
        }
        print(json.dumps(summary, indent=2))
        return
    for uri in models.values():
        print(uri)
    print(
        f"{len(result.jobs)} trained, {len(result.cached)} cached, in {result.seconds:.0f} s\n"
        f"run {result.run_id}; {format_run_hint(result.run_id)}"
    )


def _write_reports(settings: TrainAllSettings, as_json: bool) -> None:
    values = {"models": settings.models, "datasets": settings.datasets, "output": settings.output}
    report(as_json=as_json, **{name: value for name, value in values.items() if value is not None})


def train_all_settings() -> tuple[Setting, ...]:
    """Return the settings of `train-all`: its own, and those of `train` for all models.

    Settings of `train` for a single run are omitted. If several models have a setting of the same
    name, the first one is returned.
    """
    own = (TrainAllSettings, ExecutorSettings, CallSettings)
    sweep_settings = [setting for part in own for setting in list_settings(part)]
    settings = {setting.name: setting for setting in sweep_settings}
    for setting in config.all_train_settings():
        if setting.name not in SINGLE_RUN_ONLY:
            settings.setdefault(setting.name, setting)
    return tuple(settings.values())
