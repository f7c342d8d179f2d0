"""Commands for the environment and the store: doctor, install, ui, sync."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.completion import make_completer
from eyevsai.cli.options import Json, pick_settings, pop_settings, with_options
from eyevsai.core.errors import UserError
from eyevsai.core.extras import read_extras
from eyevsai.core.json import to_json
from eyevsai.core.loading import loading
from eyevsai.core.logging import configure_logging, is_verbose
from eyevsai.core.paths import expand
from eyevsai.core.quantities import format_count
from eyevsai.core.settings import Doc, Range, Settings, list_settings
from eyevsai.core.shell import join
from eyevsai.core.terminal import wrap, wrap_message
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import FAMILIES
from eyevsai.store.ui_links import HOST, PORT
from eyevsai.workflows.startup import starting

UNSYNCED = 3  # exit code if writes are still pending
OPTUNA_PORT = 8080  # default of optuna-dashboard
STATE = pick_settings(config.RunSettings, "state_dir")


@dataclass(frozen=True)
class UiSettings(Settings):
    """Address of the UI."""

    port: Annotated[int | None, Range(1, 65535), Doc("5000 by default, 8080 with --optuna.")] = None


def add_to(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(with_options(doctor, (*pick_settings(DataSettings, "data_dir"), *STATE)))
    app.command()(install)
    app.command()(with_options(ui, (*list_settings(UiSettings), *STATE)))
    app.command()(with_options(sync, STATE))


def _list_installable(_: dict[str, Any]) -> list[str]:
    return [*FAMILIES, *read_extras()]


def doctor(
    init: Annotated[
        bool, typer.Option("--init", help="Create the store if it is missing.")
    ] = False,
    relocate: Annotated[
        bool,
        typer.Option(
            "--relocate", help="Back up the store of a moved project folder, and update its paths."
        ),
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="Give a copied store its own identity, which marks the files that it owns.",
        ),
    ] = False,
    upgrade: Annotated[
        bool,
        typer.Option(
            "--upgrade",
            help="Back up a store of an earlier eyevsai, and upgrade it to the current names.",
        ),
    ] = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Check the environment, and print fixes for problems. Exit code 1 if a check fails."""
    configure_logging()
    with loading("mlflow", is_silent=as_json):  # doctor itself reports unusable folders and stores
        from eyevsai.workflows.system import doctor as job

    # with --json, standard output contains nothing but JSON
    write_line = partial(print, file=sys.stderr) if as_json else print
    state_dir = config.find_state_dir(values)
    if adopt:
        write_line(job.adopt())
    if relocate:
        _relocate(write_line)
    if upgrade:
        _upgrade(state_dir, write_line)
    results = job.run_checks(
        expand(config.compose_data(values).data_dir), state_dir, create_store=init
    )
    if as_json:
        print(json.dumps(to_json(results), indent=2))
    else:
        for result in results:
            prefix = f"{'ok  ' if result.ok else 'FAIL'}  {result.subject:<12}"
            print(wrap_message(result.text, sys.stdout, prefix))
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _relocate(write_line: Callable[[str], None]) -> None:
    from eyevsai.workflows.system.doctor import relocate_store

    relocation = relocate_store()
    write_line(
        f"{relocation.paths} paths changed from {relocation.before} to {relocation.after}; "
        f"backup of the store: {relocation.backup}"
    )


def _upgrade(state_dir: Path, write_line: Callable[[str], None]) -> None:
    from eyevsai.workflows.system.upgrade import upgrade

    upgraded = upgrade(state_dir)
    write_line(
        f"upgraded to the current names: {format_count(upgraded.runs, 'run')}, "
        f"{format_count(upgraded.versions, 'version')} and run directories of "
        f"{format_count(upgraded.run_dirs, 'run')}"
    )
    if upgraded.deleted_runs:
        write_line(
            f"not upgraded: {format_count(upgraded.deleted_runs, 'deleted run')}. Restore deleted "
            "runs and run eyevsai doctor --upgrade again to upgrade them"
        )


def install(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FAMILY|EXTRA...",
            help="Families or extras to install.",
            autocompletion=make_completer(_list_installable),
        ),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Run the command in the environment of this Python.")
    ] = False,
) -> None:
    """Print the pip command for the requirements of families or extras; with --run, run it.

    Without a name, list the extras.
    """
    from eyevsai.workflows.system import install as job

    if not names:
        for extra in job.list_extras():
            state = "installed" if extra.is_installed else "not installed"
            print(wrap(" ".join(extra.requirements), f"{extra.name:<12}{state:<15}"))
        return
    extras, notes = job.choose_extras(names)
    missing = [extra for extra in extras if not extra.is_installed]
    notes += [f"{extra.name} is installed." for extra in extras if extra.is_installed]
    for note in notes:
        print(note)
    if missing and run:
        job.install(missing)
        print(f"Installed: {', '.join(extra.name for extra in missing)}.")
    elif missing:
        print(join(job.pip_command(missing)))


def ui(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Show the studies in optuna-dashboard.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="Database URL of the studies, as with --storage of tune.")
    ] = None,
    **values: Any,
) -> None:
    """Serve MLflow's UI for the store, best runs first; with --optuna, serve optuna-dashboard.

    If the store is on a tracking server, open that server's UI instead.
    """
    if storage is not None and not optuna:
        raise UserError(f"--storage {storage} requires --optuna. Add --optuna, or omit --storage.")
    port = pop_settings(UiSettings, values).port
    configure_logging()
    with starting(modules=("mlflow",), has_store=not optuna):
        from eyevsai.workflows.system import ui as job

    window = job.Window(host or HOST, port or (OPTUNA_PORT if optuna else PORT), browser)
    if optuna:
        job.show_studies(window, storage, config.find_state_dir(values))
        return
    server = job.find_server()
    if server is None:
        job.show_store(window, verbose=is_verbose())
        return
    if port is not None or host is not None:
        raise UserError(
            f"The store is on the tracking server {server}, which has its own address. Omit "
            "--port and --host."
        )
    job.show_server(server, browser=browser)


def sync(as_json: Json = False, **values: Any) -> None:
    """Send pending writes of finished runs to the store. Exit code 3 if some are still pending."""
    configure_logging()
    with starting(modules=("mlflow",), is_silent=as_json):
        from eyevsai.workflows.system.sync import sync_all

    pending = sync_all(config.find_state_dir(values))
    if as_json:
        print(json.dumps(pending))
    else:
        for run_id, count in pending.items():
            print(f"run {run_id}: {f'{count} pending writes' if count else 'synced'}")
        print(f"{sum(pending.values())} pending writes")
    if any(pending.values()):
        raise typer.Exit(UNSYNCED)
