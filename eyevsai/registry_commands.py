"""The `eyevsai registry` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from eyevsai.console import start_logging
from eyevsai.flags import Json


def build_app() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(no_args_is_help=True, help="Look after registered models.")
    app.command(name="import")(import_registry)
    return app


def import_registry(
    path: Annotated[Path, typer.Argument(help="The original's training_registry.json.")], as_json: Json = False
) -> None:
    """Write what the original's registry knew as runs and versions, once. Exit code 1 when records are left out."""
    start_logging()
    from eyevsai.jobs.import_registry import import_registry as job

    done = job(path)
    if as_json:
        print(json.dumps(done.to_json(), indent=2, ensure_ascii=False))
    else:
        for each in done.written:
            print(f"{each.model_id}: {each.model_uri or 'a failed training'}, run {each.run_id}")
        for unknown in done.unknown_types:
            print(f"{unknown} is no model of eyevsai: kept as it is")
        for bad in done.left_out:
            print(f"left out: {bad.record} {bad.reason}")
        if not (done.written or done.there or done.left_out):
            print(f"{path} holds no records")
        print(f"{len(done.written)} imported, {len(done.there)} were there already, {len(done.left_out)} left out")
    if done.left_out:
        raise typer.Exit(1)
