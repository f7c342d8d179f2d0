"""Commands on a served model: `eyevsai watch` and `eyevsai monitor live`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.options import Json, argument, merge_named, pick_settings, with_options
from eyevsai.core.json import to_json
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import list_settings
from eyevsai.core.terminal import wrap
from eyevsai.workflows.monitor.settings import LiveSettings
from eyevsai.workflows.startup import starting
from eyevsai.workflows.watch.settings import WatchSettings, read_watch_policy

MOST_USED_OF_LIVE = ("since", "log", "page", "webhook")
MOST_USED_OF_WATCH = ("policy", "once", "every", "log", "start")
Watched = Annotated[
    str | None,
    argument(*pick_settings(WatchSettings, "name"), "NAME", "Registered model that is served."),
]


def add_to(app: typer.Typer) -> None:
    """Add `watch` to the application."""
    command = with_options(watch, list_settings(WatchSettings), MOST_USED_OF_WATCH)
    app.command(rich_help_panel="Serving")(command)


def add_live_to(app: typer.Typer) -> None:
    """Add `live` to the group `monitor`."""
    app.command()(with_options(live, list_settings(LiveSettings), MOST_USED_OF_LIVE))


def live(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Registered model whose answers are logged.")
    ],
    as_json: Json = False,
    **values: Any,
) -> None:
    """Monitor the version in Production by the inference log of its servers.

    Shows traffic, failures, latency, drift, estimated accuracy, and the risk by labels, window by
    window. Exit code 1 on an alert, which is also recorded and sent to the webhook.
    """
    settings = config.compose(LiveSettings, values)
    configure_logging()
    with starting(
        settings, page=settings.page, references=[name], modules=("mlflow",), is_silent=as_json
    ):
        from eyevsai.workflows.monitor.live import monitor_live as job

    report = job(name, settings, config.take_run_id())
    if as_json:
        print(json.dumps(to_json(report), indent=2, ensure_ascii=False))
    else:
        from eyevsai.reports.live_table import print_live

        print_live(to_json(report))
        recorded = f"; recorded in run {report.run_id}" if report.run_id else ""
        print(f"See {Path(settings.page)}{recorded}")
    if report.is_alarm:
        raise typer.Exit(1)


def watch(model: Watched = None, as_json: Json = False, **values: Any) -> None:
    """Retrain a served model when labels, drift, risk or its age require it.

    One call performs what is due now, and any later call continues, on any machine: call it from
    cron, a systemd timer or CI, or repeat it with --every. Without new labels it never trains; it
    requests labels. A candidate is promoted only by a person, or by a rollout that the policy
    allows. Exit code 1 while the retraining has failed.
    """
    settings = config.compose(WatchSettings, merge_named(model, values, "name"))
    configure_logging()
    read_watch_policy(settings.policy)  # before the imports, which take seconds
    with starting(settings, policy=None, references=[settings.name], is_silent=as_json):
        from eyevsai.workflows.watch.repeat import watch_repeatedly
        from eyevsai.workflows.watch.watch import watch as job

    run_id = config.take_run_id()
    if settings.every_s is None:
        result = job(settings, run_id)
        _print(result, as_json)
        if result.has_failed:
            raise typer.Exit(1)
        return
    for result in watch_repeatedly(settings, settings.every_s):
        _print(result, as_json)


def _print(result: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(result), ensure_ascii=False), flush=True)
        return
    for change in result.changes:
        print(f"{result.model}: {change}")
    parts = [
        f"{result.model} is {result.state}",
        f"version {result.version}" if result.version is not None else "",
        f"alerts: {', '.join(result.alerts)}" if result.alerts else "",
        result.text or result.outcome,
    ]
    print(wrap("; ".join(part for part in parts if part)), flush=True)
