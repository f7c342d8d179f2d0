"""The commands about this machine: doctor, install, sync."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.console import start_logging
from eyevsai.data.settings import DataSettings
from eyevsai.flags import Json, pick_settings, with_flags

UNSYNCED = 3


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the application."""
    app.command()(with_flags(doctor, pick_settings(DataSettings, "data_root")))
    app.command()(install)
    app.command()(with_flags(sync, pick_settings(config.RunSettings, "state_root")))


def doctor(
    init: Annotated[bool, typer.Option("--init", help="Create the store if there is none.")] = False,
    relocate: Annotated[
        bool, typer.Option("--relocate", help="Mend the store of a project folder that was moved, after a copy.")
    ] = False,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Check the environment and say what to mend."""
    from eyevsai.jobs.doctor import examine, relocate_store

    if relocate:
        done = relocate_store()
        print(f"{done.paths} paths lead from {done.before} to {done.after} now; the store before is {done.backup}")
    findings = examine(Path(config.compose_data(given).data_root).expanduser(), create_store=init)
    if as_json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'MEND'}  {finding.subject:<12}{finding.text}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def install(
    names: Annotated[list[str] | None, typer.Argument(metavar="FAMILY|EXTRA...", help="What is to be used.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Run the command, in this Python's environment.")] = False,
) -> None:
    """Print the pip command that brings what a family or an extra needs, or run it. Lists the extras without a name."""
    from eyevsai.jobs import install as job

    if not names:
        for extra in job.list_extras():
            state = "installed" if extra.is_installed else "not installed"
            print(f"{extra.name:<12}{state:<15}{' '.join(extra.requirements)}")
        return
    extras, sentences = job.choose_extras(names)
    lacking = [extra for extra in extras if not extra.is_installed]
    for sentence in (*sentences, *(f"{extra.name} is installed." for extra in extras if extra.is_installed)):
        print(sentence)
    if lacking and run:
        job.install(lacking)
        print(f"{', '.join(extra.name for extra in lacking)} can be used now.")
    elif lacking:
        print(shlex.join(job.pip_command(lacking)))


def sync(as_json: Json = False, **given: Any) -> None:
    """Tell the store what runs could not while it was away. Exit code 3 when something is left."""
    from eyevsai.jobs.sync import sync_all

    start_logging()
    left = sync_all(Path(config.compose_run(given).state_root).expanduser())
    if as_json:
        print(json.dumps(left))
    else:
        for run_id, count in left.items():
            print(f"run {run_id}: {f'{count} entries are left' if count else 'nothing is left'}")
        print(f"{sum(left.values())} entries are left")
    if any(left.values()):
        raise typer.Exit(UNSYNCED)
