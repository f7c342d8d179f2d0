"""The commands that train: train, tune and train-all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

from eyevsai import config
from eyevsai.cli.models import report
from eyevsai.cli.options import (
    UNPARSED,
    Json,
    check_extra_arguments,
    check_no_train_options,
    with_options,
)
from eyevsai.cli.output import where_to_view
from eyevsai.cli.parsing import with_hyphens
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import Setting, format_flags, list_settings
from eyevsai.executors.settings import ExecutorSettings, TrainAllSettings
from eyevsai.workflows.tune.settings import tune_settings

# settings of train
OF_ONE = ("model", "variation", "dataset", "data", "run_name", "resume", "resume_force")


def add_to(app: typer.Typer, arguments: Sequence[str], settings: Sequence[Setting]) -> None:
    """Add these commands to the application.

    Args:
        app: the application.
        arguments: the command line; the options of train-all, which all families declare, are read
            for its own line alone.
        settings: those of `train` for the model that the command line names.
    """
    options = app.command(context_settings=UNPARSED, rich_help_panel="Jobs")
    options(with_options(train, settings))
    options(with_options(tune, tune_settings(settings)))
    is_called = "train-all" in map(with_hyphens, arguments)
    app.command(name="train-all", rich_help_panel="Jobs")(
        with_options(train_all, train_all_settings() if is_called else ())
    )


def train(context: typer.Context, **given: Any) -> None:
    """Train a model, log the run and register a version.

    With --model the flags of that family are shown too. `mlflow run . -e train -P model=deep_v1`
    does the same in a run that MLflow makes; -P takes every flag: -P lr=0.001.
    """
    check_extra_arguments(context, given)
    composed = config.compose_train(given)
    from eyevsai.workflows.distributed.rank import rank_from_env

    rank = rank_from_env()
    if rank is not None and rank.rank > 0:
        from eyevsai.workflows.distributed.worker import run_worker

        run_worker(composed, rank)
        return
    configure_logging()
    from eyevsai.workflows.train.train import train as job

    done = job(composed, config.take_run_id(), rank)
    scores = done.scores
    print(
        f"{done.model_uri or 'no version yet'}\nvalid accuracy {scores['accuracy']:.4f}, loss "
        f"{scores['loss']:.4f}, in {done.seconds:.0f} s\nrun {done.run_id}; {where_to_view()}"
    )


def tune(context: typer.Context, **given: Any) -> None:
    """Look for the best settings of a model. Takes the flags of train, which no trial changes then.

    A study of the same name is gone on with. `train` takes what it found.
    """
    check_no_train_options(context.args)
    check_extra_arguments(context, given)
    from eyevsai.workflows.tune.study_config import compose_tune

    composed = compose_tune(given)
    configure_logging()
    from eyevsai.workflows.tune.tune import tune as job

    done = job(composed, config.take_run_id())
    states = ", ".join(f"{count} {state}" for state, count in done.states.items())
    print(
        f"study {done.study}: {states}\n"
        f"best valid accuracy {done.accuracy:.4f} with {format_flags(done.settings)}\n"
        f"run {done.run_id}, in {done.seconds:.0f} s; {where_to_view()}"
    )


def train_all(as_json: Json = False, **given: Any) -> None:
    """Train every model on every dataset, or those that are named, side by side; each is a run
    under one parent.

    What was done before with the same settings, data and code is not done again. Takes the flags of
    train, for all models that have them. Exit code 1 when a job failed; the others are done all the
    same.
    """
    settings = config.compose(TrainAllSettings, given)
    if settings.generate_reports_only:
        _report(settings, as_json)
        return
    from eyevsai.workflows.sweep.train_all import compose_train_all

    composed = compose_train_all(given)
    configure_logging()
    from eyevsai.workflows.sweep.train_all import train_all as job

    done = job(composed, config.take_run_id())
    models = {
        **done.cached,
        **{name: status.value["model_uri"] for name, status in done.jobs.items()},
    }
    if as_json:
        reports = {name: str(path) for name, path in done.reports.items()}
        about = {
            "run_id": done.run_id,
            "models": models,
            "reports": reports,
            "seconds": done.seconds,
        }
        print(json.dumps(about, indent=2))
        return
    for uri in models.values():
        print(uri)
    print(
        f"{len(done.jobs)} trained, {len(done.cached)} there before, in {done.seconds:.0f} s\n"
        f"run {done.run_id}; {where_to_view()}"
    )


def _report(settings: TrainAllSettings, as_json: bool) -> None:
    wanted = {"models": settings.models, "datasets": settings.datasets, "output": settings.output}
    report(as_json, **{name: value for name, value in wanted.items() if value is not None})


def train_all_settings() -> tuple[Setting, ...]:
    """The command's own settings, and of those of train, whichever model has them, all that many
    may share.
    """
    own = (*list_settings(TrainAllSettings), *list_settings(ExecutorSettings))
    found = {setting.name: setting for setting in own}
    for setting in config.all_train_settings():
        if setting.name not in OF_ONE:
            found.setdefault(setting.name, setting)
    return tuple(found.values())
