"""Workflow of `serve`: a registered model behind HTTP."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from threading import Thread

from eyevsai.core.errors import UserError
from eyevsai.core.shell import quote
from eyevsai.executors.settings import RAY, ReplicaSettings
from eyevsai.serving.http.assembly import ModelServer, ServerConfig
from eyevsai.serving.http.auth import TokenStore
from eyevsai.store.tags import JOB
from eyevsai.workflows.job_context import JobContext, job_context, log_settings

log = logging.getLogger("eyevsai")

SERVE = "serve"  # job of the run that `mlflow run` created for a server


def serve(
    config: ServerConfig, cluster: ReplicaSettings | None = None, run_id: str | None = None
) -> None:
    """Serve a registered model until a signal.

    Args:
        config: all settings.
        cluster: number of replicas on a Ray cluster; by default, one server in this process.
        run_id: run that `mlflow run` created for this call; it is ended when the server is ready,
            because a server may run for months.

    Raises:
        UserError: the settings, the model or the address cannot be used.
    """
    cluster, output = cluster or ReplicaSettings(), sys.stdout  # Ray's own output is redirected
    replicas = (cluster.replicas or 1) if cluster.executor == RAY else None
    with job_context(config.serve.state_dir, run_id) as job:

        def announce(version: Mapping[str, str], url: str) -> None:
            """Print how to use the server, and end the run of the call."""
            print(_describe(version, url, config, replicas), file=output, flush=True)
            if run_id is not None:  # in a thread: requests do not wait for the store
                Thread(target=_end_run, args=(job, config, version), daemon=True).start()

        if replicas is not None:
            from eyevsai.workflows.serve_ray import serve_on_ray

            serve_on_ray(config, cluster, announce)
        else:
            _serve_here(config, announce)


def _serve_here(config: ServerConfig, announce: Callable[[Mapping[str, str], str], None]) -> None:
    """Serve in this process."""
    server = ModelServer(config)
    try:
        server.load()
        listener = server.bind()
        version = server.describe()
        server.run(lambda: announce(version, listener.url))
    finally:
        server.close()


def _describe(
    version: Mapping[str, str], url: str, config: ServerConfig, replicas: int | None
) -> str:
    place = "" if replicas is None else f" on {replicas} replica{'s' * (replicas > 1)}"
    lines = [
        f"{version['uri']} ({version['format']}){place} at {url}",
        f"  curl --data-binary @IMAGE --header 'Content-Type: image/*' {quote(url)}/v1/predict",
    ]
    if TokenStore.load(config.security.token_file):
        lines[-1] += " --header 'Authorization: Bearer TOKEN'"
    return "\n".join(lines)


def _end_run(job: JobContext, config: ServerConfig, version: Mapping[str, str]) -> None:
    """Log the settings on the run of the call, and end it."""
    tags = {JOB: SERVE, "model_uri": version["uri"]}
    try:
        with job.start_run(f"{SERVE} {version['name']}", tags) as run:
            log_settings(run, config.serve)
    except UserError as error:  # the model is served all the same
        log.warning("The run of this call could not be ended: %s", error)
