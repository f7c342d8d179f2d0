"""Command `serve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.cli.options import argument, merge_model, pick_settings, with_options
from eyevsai.core.logging import configure_logging
from eyevsai.core.settings import Setting, list_settings
from eyevsai.executors.settings import ReplicaSettings
from eyevsai.inference_log.settings import LogWriterSettings
from eyevsai.serving.http.security_settings import LimitSettings, SecuritySettings
from eyevsai.serving.http.settings import ServeSettings
from eyevsai.workflows.startup import starting

MOST_USED = ("host", "port", "workers", "top_k", "token_file", "log")
Served = Annotated[
    str | None,
    argument(*pick_settings(ServeSettings, "name"), "MODEL"),
]


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(rich_help_panel="Serving")(with_options(serve, serve_settings(), MOST_USED))


def serve_settings() -> tuple[Setting, ...]:
    """Return the settings of `serve`, each once."""
    parts = (ServeSettings, ReplicaSettings, SecuritySettings, LimitSettings, LogWriterSettings)
    settings: dict[str, Setting] = {}
    for part in parts:
        for setting in list_settings(part):
            settings.setdefault(setting.name, setting)  # --state-dir is in two of them
    return tuple(settings.values())


def serve(served: Served = None, **values: Any) -> None:
    """Serve a registered model over HTTP, and follow its alias to new versions.

    NAME follows the alias production. A new version is loaded and checked beside the old one, which
    answers until then. SIGTERM and Ctrl-C answer the requests in flight first.
    """
    values = merge_model(served, values, "name")
    settings = config.compose(ServeSettings, values)
    cluster = config.compose(ReplicaSettings, values)
    security = config.compose(SecuritySettings, values)
    limits = config.compose(LimitSettings, values)
    logged = config.compose(LogWriterSettings, values)
    configure_logging()
    with starting(settings):
        from eyevsai.serving.http.assembly import ServerConfig
        from eyevsai.workflows.serve import serve as job

    job(ServerConfig(settings, security, limits, logged), cluster, config.take_run_id())
