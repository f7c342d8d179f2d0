"""The command about many models: train-all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

from eyevsai import config
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import Setting, list_settings
from eyevsai.executors.settings import ExecutorSettings, TrainAllSettings
from eyevsai.flags import Json, where_to_view, with_flags
from eyevsai.model_commands import report
from eyevsai.models.factory import FAMILIES, get_family
from eyevsai.words import hyphens

# settings of train
OF_ONE = ("model", "variation", "dataset", "data", "run_name", "resume", "resume_anyway")


def settings_of_command(arguments: Sequence[str]) -> tuple[Setting, ...]:
    """The settings of the command, if a command line may be its own: reading them all takes
    time.
    """
    return _settings() if "train-all" in map(hyphens, arguments) else ()


def add_to(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Adds the command to the application; its flags, which all families declare, are read for its
    own line alone.
    """
    app.command(name="train-all", rich_help_panel="Jobs")(
        with_flags(train_all, settings_of_command(arguments))
    )


def train_all(as_json: Json = False, **given: Any) -> None:
    """Train every model on every dataset, or those that are named, side by side; each is a run
    under one parent.

    What was done before with the same settings, data and code is not done again. Takes the flags of
    train, for all models that have them. Exit code 1 when a job failed; the others are done all the
    same.
    """
    matrix = config.compose(TrainAllSettings, given)
    if matrix.generate_reports_only:
        _report(matrix, as_json)
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


def _report(matrix: TrainAllSettings, as_json: bool) -> None:
    wanted = {"models": matrix.models, "datasets": matrix.datasets, "output": matrix.output}
    report(as_json, **{name: value for name, value in wanted.items() if value is not None})


def _settings() -> tuple[Setting, ...]:
    """The command's own settings, and of those of train, whichever model has them, all that many
    may share.
    """
    families = [
        form.settings for family in FAMILIES for form in get_family(family).variations.values()
    ]
    own = (*list_settings(TrainAllSettings), *list_settings(ExecutorSettings))
    found = {setting.name: setting for setting in own}
    for setting in (
        *config.shared_settings(),
        *(each for declared in families for each in list_settings(declared)),
    ):
        if setting.name not in OF_ONE:
            found.setdefault(setting.name, setting)
    return tuple(found.values())
