"""The commands about this machine: doctor, install, ui, sync."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.completion import completer
from eyevsai.cli.options import Json, pick_settings, pop_settings, with_options
from eyevsai.core.errors import UserError
from eyevsai.core.extras import read_extras
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging, is_verbose
from eyevsai.core.settings import Doc, Range, Settings, list_settings
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import FAMILIES

UNSYNCED = 3
MLFLOW_PORT, OPTUNA_PORT = 5000, 8080  # that MLflow and optuna-dashboard choose themselves
HOST = "127.0.0.1"
STATE = pick_settings(config.RunSettings, "state_dir")


@dataclass(frozen=True)
class UiSettings(Settings):
    """Where a page is shown."""

    port: Annotated[int | None, Range(1, 65535), Doc("5000 by default, with --optuna 8080.")] = None


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the application."""
    app.command()(with_options(doctor, (*pick_settings(DataSettings, "data_dir"), *STATE)))
    app.command()(install)
    app.command()(with_options(ui, (*list_settings(UiSettings), *STATE)))
    app.command()(with_options(sync, STATE))


def _installable(_: dict[str, Any]) -> list[str]:
    return [*FAMILIES, *read_extras()]


def doctor(
    init: Annotated[
        bool, typer.Option("--init", help="Create the store if there is none.")
    ] = False,
    relocate: Annotated[
        bool,
        typer.Option(
            "--relocate", help="Mend the store of a project folder that was moved, after a copy."
        ),
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="Give a copied store an identity of its own, by which it owns new files.",
        ),
    ] = False,
    upgrade: Annotated[
        bool,
        typer.Option(
            "--upgrade",
            help="Bring a store of an earlier eyevsai to the present names, after a copy.",
        ),
    ] = False,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Check the environment, and how to fix what is wrong."""
    configure_logging()
    from eyevsai.workflows.system import doctor as job

    # standard output is JSON alone
    write_line = partial(print, file=sys.stderr) if as_json else print
    state_dir = config.find_state_dir(given)
    if adopt:
        write_line(job.adopt())
    if relocate:
        done = job.relocate_store()
        write_line(
            f"{done.paths} paths lead from {done.before} to {done.after} now; the store before "
            f"is {done.backup}"
        )
    if upgrade:
        _upgrade(state_dir, write_line)
    results = job.run_checks(
        Path(config.compose_data(given).data_dir).expanduser(), state_dir, create_store=init
    )
    if as_json:
        print(json.dumps(to_json(results), indent=2))
    else:
        for result in results:
            print(f"{'ok  ' if result.ok else 'FAIL'}  {result.subject:<12}{result.text}")
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _upgrade(state_dir: Path, write_line: Callable[[str], None]) -> None:
    from eyevsai.workflows.system.upgrade import upgrade

    changed = upgrade(state_dir)
    write_line(
        f"{changed.runs} runs, {changed.versions} versions and {changed.run_dirs} run "
        "directories have the present names"
    )
    if changed.deleted_runs:
        write_line(
            f"{changed.deleted_runs} deleted runs keep the earlier ones: restore them and "
            "upgrade again to change that"
        )


def install(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FAMILY|EXTRA...",
            help="What is to be used.",
            autocompletion=completer(_installable),
        ),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Run the command, in this Python's environment.")
    ] = False,
) -> None:
    """Print the pip command that brings what a family or an extra needs, or run it; without a name,
    list the extras.
    """
    from eyevsai.workflows.system import install as job

    if not names:
        for extra in job.list_extras():
            state = "installed" if extra.is_installed else "not installed"
            print(f"{extra.name:<12}{state:<15}{' '.join(extra.requirements)}")
        return
    extras, sentences = job.choose_extras(names)
    lacking = [extra for extra in extras if not extra.is_installed]
    for sentence in (
        *sentences,
        *(f"{extra.name} is installed." for extra in extras if extra.is_installed),
    ):
        print(sentence)
    if lacking and run:
        job.install(lacking)
        print(f"{', '.join(extra.name for extra in lacking)} can be used now.")
    elif lacking:
        print(shlex.join(job.pip_command(lacking)))


def ui(
    host: Annotated[
        str | None, typer.Option(help="Address to listen at; by default only this machine's own.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Show studies, in optuna-dashboard.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="Database URL of the studies, as --storage of tune.")
    ] = None,
    **given: Any,
) -> None:
    """Open MLflow's UI on the store, with the best runs first; with --optuna, optuna-dashboard on
    the studies.

    Where a server keeps the store, it is that server's page which is opened.
    """
    from eyevsai.workflows.system import ui as job

    port = pop_settings(UiSettings, given).port
    configure_logging()
    window = job.Window(host or HOST, port or (OPTUNA_PORT if optuna else MLFLOW_PORT), browser)
    if optuna:
        job.show_studies(window, storage, config.find_state_dir(given))
        return
    if storage is not None:
        raise UserError("--storage says where studies are: add --optuna.")
    server = job.find_server()
    if server is None:
        job.show_store(window, verbose=is_verbose())
        return
    if port is not None or host is not None:
        raise UserError(
            f"The store is kept by the server at {server}, which has its own address: leave out "
            "--port and --host."
        )
    print(f"MLflow's UI: {server}")
    job.open_browser(server, browser)


def sync(as_json: Json = False, **given: Any) -> None:
    """Tell the store what runs could not while it was away. Exit code 3 when something is left."""
    from eyevsai.workflows.system.sync import sync_all

    configure_logging()
    left = sync_all(config.find_state_dir(given))
    if as_json:
        print(json.dumps(left))
    else:
        for run_id, count in left.items():
            print(f"run {run_id}: {f'{count} entries are left' if count else 'nothing is left'}")
        print(f"{sum(left.values())} entries are left")
    if any(left.values()):
        raise typer.Exit(UNSYNCED)
