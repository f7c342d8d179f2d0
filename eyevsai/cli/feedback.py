"""Commands of the group `eyevsai feedback`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.log import LoggedName
from eyevsai.cli.options import Json, with_options
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import list_settings
from eyevsai.inference_log.settings import (
    FeedbackSettings,
    LogSettings,
    SuggestSettings,
)
from eyevsai.workflows.startup import starting


def build_app() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="Labels of served answers: which to ask for, import, state.")
    app.command()(with_options(add, list_settings(FeedbackSettings)))
    app.command()(with_options(suggest, list_settings(SuggestSettings), ("count", "label_studio")))
    app.command()(with_options(status, list_settings(LogSettings)))
    app.command()(with_options(exclude, list_settings(LogSettings)))
    return app


def add(
    name: LoggedName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV table with the columns id and label, and optionally source and at; or the "
            "JSON or JSON-MIN export of Label Studio.",
        ),
    ],
    as_json: Json = False,
    **values: Any,
) -> None:
    """Add labels of a file to the inference log.

    Labels that are stored already change nothing. Exit code 1 if rows are refused.
    """
    settings = config.compose(FeedbackSettings, values)
    configure_logging()
    with starting(settings, modules=(), has_store=False, is_silent=as_json):
        from eyevsai.workflows.feedback.add import add_labels as job

    added = job(name, file, settings)
    if as_json:
        print(json.dumps(to_json(added), indent=2, ensure_ascii=False))
    else:
        print(", ".join(f"{count:,} {result}" for result, count in added.results.items()))
        for reason in added.reasons:
            print(f"refused: {reason}")
        if added.refused > len(added.reasons):
            print(f"{added.refused:,} rows are refused.")
    if added.refused:
        raise typer.Exit(1)


def suggest(name: LoggedName, as_json: Json = False, **values: Any) -> None:
    """Select answers that a person should label next: uncertain ones and a random part.

    Writes a table whose column `label` is to be filled in and added with `feedback add`, or tasks
    for Label Studio. Answers are suggested once.
    """
    settings = config.compose(SuggestSettings, values)
    configure_logging()
    with starting(settings, modules=(), has_store=False, is_silent=as_json):
        from eyevsai.workflows.feedback.suggest import suggest_labels as job

    path, reasons = job(name, settings)
    if as_json:
        print(json.dumps({"path": str(path), **reasons}))
        return
    numbers = " and ".join(f"{count} {reason}" for reason, count in reasons.items())
    print(f"{numbers} answers: {path}")
    if settings.label_studio:
        print(f"labelling configuration: {path.with_suffix('.xml')}")


def status(name: LoggedName, as_json: Json = False, **values: Any) -> None:
    """Show how many answers have labels, and how the sources of labels differ."""
    settings = config.compose(LogSettings, values)
    configure_logging()
    with starting(settings, modules=(), has_store=False, is_silent=as_json):
        from eyevsai.workflows.feedback.suggest import read_label_summary as job

    summary = job(name, settings)
    if as_json:
        print(json.dumps(to_json(summary), indent=2, ensure_ascii=False))
        return
    from eyevsai.reports.label_table import print_labels

    print_labels(to_json(summary), summary.has_many_corrections)


def exclude(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Source of labels, as `feedback status` shows.")
    ],
    end: Annotated[bool, typer.Option("--end", help="Include the source again.")] = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Exclude a source of labels, for example one that floods the log.

    Its labels do not count any more. Tests that used them before are not run again.
    """
    settings = config.compose(LogSettings, values)
    configure_logging()
    with starting(settings, modules=(), has_store=False, is_silent=as_json):
        from eyevsai.workflows.feedback.suggest import exclude_source as job

    is_changed = job(source, settings, is_included=end)
    if as_json:
        print(json.dumps({"source": source, "is_excluded": not end, "is_changed": is_changed}))
    else:
        state = "included" if end else "excluded"
        print(f"{source} is {state}" if is_changed else f"{source} was {state} already")
