"""Workflow of `serve`: a registered model behind HTTP."""

from __future__ import annotations

import logging
from threading import Thread

from eyevsai.core.errors import UserError
from eyevsai.core.shell import quote
from eyevsai.serving.http.assembly import ModelServer, ServerConfig
from eyevsai.serving.http.versions import LoadedVersion
from eyevsai.store.tags import JOB
from eyevsai.workflows.job_context import JobContext, job_context, log_settings

log = logging.getLogger("eyevsai")

SERVE = "serve"  # job of the run that `mlflow run` created for a server


def serve(config: ServerConfig, run_id: str | None = None) -> None:
    """Serve a registered model until a signal.

    Args:
        config: all settings.
        run_id: run that `mlflow run` created for this call; it is ended when the server is ready,
            because a server may run for months.

    Raises:
        UserError: the settings, the model or the address cannot be used.
    """
    with job_context(config.serve.state_dir, run_id) as job:
        server = ModelServer(config)
        try:
            server.load()
            listener = server.bind()
            version = server.service.table.production
            assert version is not None  # else `load` raises

            def announce() -> None:
                """Print how to use the server, and end the run of the call."""
                print(_describe(version, listener.url, config), flush=True)
                if run_id is not None:  # in a thread: requests do not wait for the store
                    Thread(target=_end_run, args=(job, config, version), daemon=True).start()

            server.run(announce)
        finally:
            server.close()


def _describe(version: LoadedVersion, url: str, config: ServerConfig) -> str:
    lines = [
        f"{version.uri} ({version.format}) at {url}",
        f"  curl --data-binary @IMAGE --header 'Content-Type: image/*' {quote(url)}/v1/predict",
    ]
    if config.security.token_file is not None:
        lines[-1] += " --header 'Authorization: Bearer TOKEN'"
    return "\n".join(lines)


def _end_run(job: JobContext, config: ServerConfig, version: LoadedVersion) -> None:
    """Log the settings on the run of the call, and end it."""
    tags = {JOB: SERVE, "model_uri": version.uri}
    try:
        with job.start_run(f"{SERVE} {version.name}", tags) as run:
            log_settings(run, config.serve)
    except UserError as error:  # the model is served all the same
        log.warning("The run of this call could not be ended: %s", error)
