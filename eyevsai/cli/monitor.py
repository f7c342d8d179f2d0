"""Commands of the group `eyevsai monitor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.options import Json, with_options
from eyevsai.cli.watch import add_live_to
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.model_ref import VERSION_FORMS
from eyevsai.core.settings import list_settings
from eyevsai.evaluation.monitor_settings import DriftSettings
from eyevsai.workflows.image_paths import find_images
from eyevsai.workflows.startup import starting

MOST_USED_OF_DRIFT = ("window", "page")


def build_app() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="Compare new images with those that a model was evaluated on.")
    app.command()(with_options(drift, list_settings(DriftSettings), MOST_USED_OF_DRIFT))
    add_live_to(app)
    return app


def drift(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=f"{VERSION_FORMS}, with or without models:/, or a run id."
        ),
    ],
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDERS", help="Folders of images without labels; each is checked by itself."
        ),
    ],
    as_json: Json = False,
    **values: Any,
) -> None:
    """Compare images without labels with the reference of a model, and estimate the accuracy.

    Exit code 1 on an alarm. The reference is stored by `eyevsai evaluate`.
    """
    settings = config.compose(DriftSettings, values)
    configure_logging()
    images = {name: find_images([name]) for name in folders}
    with starting(settings, model_uri=model, page=settings.page, is_silent=as_json):
        from eyevsai.workflows.monitor.drift import monitor_drift as job

    report = job(model, images, settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(report), indent=2, ensure_ascii=False))
    else:
        from eyevsai.reports.drift_table import print_drift

        print_drift(to_json(report))
        print(f"See {Path(settings.page)}; logged on run {report.run_id}")
    if report.is_alarm:
        raise typer.Exit(1)
