"""Commands of the group `eyevsai rollout`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.options import Json, argument, merge_model, pick_settings, with_options
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import list_settings
from eyevsai.rollout.policy import read_rollout_policy
from eyevsai.workflows.rollout.settings import (
    EventSettings,
    RolloutCallSettings,
    RolloutSettings,
    StatusSettings,
    StepSettings,
)
from eyevsai.workflows.startup import starting

Model = Annotated[str | None, argument(*pick_settings(RolloutCallSettings, "name"), "MODEL")]
MOST_USED = ("version", "plan", "policy", "detach")


def build_app() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="Replace the version in Production gradually, and roll back by itself.")
    app.command()(with_options(start, list_settings(RolloutSettings), MOST_USED))
    app.command()(with_options(status, list_settings(StatusSettings)))
    app.command()(with_options(pause, list_settings(EventSettings)))
    app.command()(with_options(resume, list_settings(EventSettings)))
    app.command()(with_options(abort, list_settings(EventSettings)))
    app.command()(with_options(step, list_settings(StepSettings)))
    return app


def start(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """Roll out a version beside the one in Production: in shadow, then with growing shares.

    Each step lasts until the evidence suffices. The version is promoted at the end, and rolled back
    if it fails, is slow or is wrong more often than the one in Production. Servers must run with an
    inference log. Exit code 1 if it is rolled back, refused or aborted.
    """
    settings = config.compose(RolloutSettings, merge_model(model, values, "name"))
    configure_logging()
    read_rollout_policy(settings.policy, settings.plan)
    with _starting(settings, as_json):
        from eyevsai.workflows.rollout.start import start as job

    _print(job(settings, config.take_run_id()), as_json)


def status(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """Show state, evidence, servers and decisions of the current or last rollout."""
    settings = config.compose(StatusSettings, merge_model(model, values, "name"))
    configure_logging()
    with _starting(settings, as_json, page=settings.page):
        from eyevsai.workflows.rollout.status import show_status as job

    _print(job(settings), as_json, is_report=True)
    if settings.page is not None and not as_json:
        print(f"See {settings.page}")


def pause(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """Keep the current share. The rollout is still rolled back if the evidence demands it."""
    _submit("pause", model, values, as_json)


def resume(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """Continue a rollout that is paused or held."""
    _submit("resume", model, values, as_json)


def abort(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """End a rollout: servers use only the version in Production."""
    _submit("abort", model, values, as_json)


def step(model: Model = None, as_json: Json = False, **values: Any) -> None:
    """Look at the evidence and decide, until the rollout ends; with --once, a single time.

    Several controllers may run: one at a time decides. Exit code 1 if the rollout has been rolled
    back, refused or aborted.
    """
    settings = config.compose(StepSettings, merge_model(model, values, "name"))
    configure_logging()
    with _starting(settings, as_json):
        from eyevsai.workflows.rollout.run import step as job

    _print(job(settings), as_json)


def _submit(kind: str, model: str | None, values: dict[str, Any], as_json: bool) -> None:
    settings = config.compose(EventSettings, merge_model(model, values, "name"))
    configure_logging()
    with _starting(settings, as_json):
        from eyevsai.rollout.state import Kind
        from eyevsai.workflows.rollout.run import submit as job

    _print(job(settings, Kind(kind)), as_json, is_report=True)


def _starting(settings: RolloutCallSettings, as_json: bool, **inputs: Any) -> Any:
    """Return the context in which a workflow is imported."""
    references = None if settings.name is None else [settings.name]
    return starting(
        state_dir=settings.state_dir,
        references=references,
        modules=("mlflow",),
        is_silent=as_json,
        **inputs,
    )


def _print(result: Any, as_json: bool, *, is_report: bool = False) -> None:
    """Print a status; exit with code 1 if the rollout failed, unless it is only reported."""
    if as_json:
        print(json.dumps(to_json(result), indent=2, ensure_ascii=False))
    else:
        from eyevsai.reports.rollout_table import print_rollout

        print_rollout(to_json(result))
    if result.has_failed and not is_report:
        raise typer.Exit(1)
