"""Commands of the group `eyevsai log`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.options import Json, with_options
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import list_settings
from eyevsai.inference_log.settings import (
    MEBIBYTE,
    ExportLogSettings,
    ForgetSettings,
    PruneSettings,
)
from eyevsai.workflows.startup import starting

STANDARD_INPUT = "-"
LoggedName = Annotated[
    str, typer.Argument(metavar="NAME", help="Registered model that a server answers with.")
]


def build_app() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="Inference log of `eyevsai serve`: export, retention, deletion.")
    app.command()(with_options(export, list_settings(ExportLogSettings)))
    app.command()(with_options(prune, list_settings(PruneSettings)))
    app.command()(with_options(forget, list_settings(ForgetSettings)))
    return app


def export(name: LoggedName, as_json: Json = False, **values: Any) -> None:
    """Write the answers of a model, with the labels that count, to a Parquet file."""
    settings = config.compose(ExportLogSettings, values)
    configure_logging()
    with starting(settings, modules=(), has_store=False, is_silent=as_json):
        from eyevsai.workflows.log.export import export_log as job

    path, number = job(name, settings)
    if as_json:
        print(json.dumps({"path": str(path), "answers": number}))
    else:
        print(f"{number:,} answers: {path}")


def prune(as_json: Json = False, **values: Any) -> None:
    """Delete old answers, with their labels and images, while servers continue to write."""
    settings = config.compose(PruneSettings, values)
    configure_logging()
    with starting(settings, modules=(), has_store=False, is_silent=as_json):
        from eyevsai.workflows.log.deletion import prune_log as job

    deletion, size = job(settings)
    if as_json:
        print(json.dumps(to_json(deletion) | {"log_bytes": size}))
    else:
        print(
            f"deleted {deletion.answers:,} answers and {deletion.labels:,} labels; the log has "
            f"{size / MEBIBYTE:,.1f} MiB"
        )


def forget(
    key: Annotated[
        str, typer.Option("--key", help="Key that the client sent; - reads it from standard input.")
    ],
    as_json: Json = False,
    **values: Any,
) -> None:
    """Delete all answers of a client, with their labels and images.

    The log stores only a hash of the key, which is computed with the secret of the log.
    """
    settings = config.compose(ForgetSettings, values)
    configure_logging()
    with starting(settings, modules=(), has_store=False, is_silent=as_json):
        from eyevsai.workflows.log.deletion import forget_key as job

    typed = sys.stdin.readline().strip() if key == STANDARD_INPUT else key
    deletion = job(typed, settings)
    if as_json:
        print(json.dumps(to_json(deletion)))
    else:
        print(f"deleted {deletion.answers:,} answers and {deletion.labels:,} labels")
