"""Replica of a server in Ray Serve: a process with its own versions, follower and log writer.

It differs from `eyevsai serve` on one machine in what surrounds the application: Ray's proxy
receives the requests, Ray's controller starts, checks and ends the process.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from eyevsai.core.errors import UserError
from eyevsai.core.logging import configure_logging
from eyevsai.serving.http.assembly import ModelServer, ServerConfig
from eyevsai.serving.http.deadlines import make_http_protocol
from eyevsai.serving.http.server import DRAIN_S, Listener, bind
from eyevsai.serving.http.tls import load_certificate

log = logging.getLogger("eyevsai")

LOG_FLUSH_S = 10.0  # longest wait for the database when a replica ends
PROBES = 64  # requests beside those that the application itself refuses, such as /live
WAITING = 256  # requests that wait in a proxy while all replicas have their maximum
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5.0, 30.0
METRICS_PORTS = 100  # ports from --metrics-port on, of which a replica takes the first free one
METRICS_PAGES = ("/metrics", "/v1/status", "/live", "/ready")
ERROR = re.compile(r"eyevsai-error:(\".*?(?<!\\)\")", re.DOTALL)


@dataclass(frozen=True)
class Resources:
    """Number of replicas, and the resources that Ray reserves for each."""

    replicas: int
    cpus: int
    gpus: float


@dataclass(frozen=True)
class ReplicaContext:
    """Environment and folder that a replica takes over from the command that starts it.

    Attributes:
        environment: environment variables, among them the secret that all replicas share.
        folder: current folder of the command, to which relative paths belong.
    """

    environment: Mapping[str, str] = field(repr=False)
    folder: str


class ReplicaStartError(RuntimeError):
    """Failure of a replica to start, with the reason in a form that `find_error` finds."""

    def __init__(self, error: UserError) -> None:
        super().__init__(f"eyevsai-error:{json.dumps(str(error))}")


def find_error(text: str) -> str | None:
    """Return the reason in a status message of Ray Serve, which has a traceback; None without."""
    match = ERROR.search(text)
    if match is None:
        return None
    try:
        return str(json.loads(match[1]))
    except ValueError:
        return match[1].strip('"')


class ModelReplica:
    """Replica of a server, created by Ray Serve in a process of its own.

    Args:
        config: all settings; those of the workers are per replica.
        context: environment and folder of the command.

    Raises:
        ReplicaStartError: no version can be loaded, or a setting cannot be used on this machine.
    """

    def __init__(self, config: ServerConfig, context: ReplicaContext) -> None:
        from ray import serve

        os.environ.update(context.environment)
        with suppress(OSError):  # the folder may not exist on another machine
            os.chdir(context.folder)
        configure_logging()
        replica = serve.get_replica_context().replica_id.unique_id
        self._name = f"{platform.node()}:{replica}"
        self._server: ModelServer | None = None
        self._metrics: _PageServer | None = None
        try:
            self._server = ModelServer(config, server_id=self._name)
            self._server.load()
            if config.serve.metrics_port is not None:
                self._metrics = _PageServer(self._server, config)
        except UserError as error:
            self._close()
            raise ReplicaStartError(error) from error
        self._server.service.status_parts["replica"] = self._describe_replica

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application; Ray Serve calls this after the constructor."""
        assert self._server is not None
        return self._server.make_app(has_metrics=False)

    def check_health(self) -> None:
        """Raise RuntimeError if a worker is stuck: Ray Serve then replaces the replica."""
        if self._server is not None and not self._server.service.is_live():
            raise RuntimeError("A worker is stuck with a prediction.")

    def describe(self) -> dict[str, str]:
        """Return URI, format and model name of the version in production."""
        assert self._server is not None
        return self._server.describe()

    def __del__(self) -> None:
        """End the replica; Ray Serve calls this when the last request was answered."""
        self._close()

    def _close(self) -> None:
        server, self._server = self._server, None
        if self._metrics is not None:
            self._metrics.close()
        if server is not None:
            server.close()

    def _describe_replica(self) -> dict[str, Any]:
        metrics = None if self._metrics is None else self._metrics.url
        return {"id": self._name, "metrics": metrics}


class _PageServer:
    """Metrics and probes of one replica at a port of its machine.

    A request to the common address reaches any replica, so that counters read there would go back
    and forth.

    Raises:
        UserError: no port is free.
    """

    def __init__(self, server: ModelServer, config: ServerConfig) -> None:
        security = config.security
        self._listener = _bind_first(config)
        self.url = f"{self._listener.url}/metrics"
        http: Any = make_http_protocol(config.limits, load_certificate(security))  # or a function
        options = uvicorn.Config(
            _OnlyPages(server.make_app(has_metrics=True)),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            http=http,
            proxy_headers=security.behind_proxy,
        )
        self._server = uvicorn.Server(options)
        thread = threading.Thread(
            target=self._server.run, args=([self._listener.socket],), daemon=True
        )
        thread.start()
        log.info("Metrics of this replica: %s", self.url)

    def close(self) -> None:
        """Stop the server."""
        self._server.should_exit = True


class _OnlyPages:
    """ASGI application with the pages of one replica only: predictions come through the proxy."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in METRICS_PAGES:
            scope = {**scope, "path": "/not-found"}
        await self._app(scope, receive, send)


def _bind_first(config: ServerConfig) -> Listener:
    """Bind the first free port from --metrics-port on; 0 takes any."""
    first = config.serve.metrics_port
    assert first is not None
    is_tls = config.security.tls_cert is not None
    for port in range(first, min(first + METRICS_PORTS, 65536)):
        with suppress(UserError, OSError):
            listener = bind(config.serve.host, port, is_tls=is_tls)
            # at once: until then, another replica could bind the same port
            listener.socket.listen()
            return listener
    raise UserError(
        f"--metrics-port {first} cannot be used on {platform.node()}: neither it nor one of the "
        f"next {METRICS_PORTS} ports is free. Choose another."
    )


def make_application(config: ServerConfig, context: ReplicaContext, resources: Resources) -> Any:
    """Return the application for `serve.run`.

    The application itself refuses requests beyond its limits with 503, and Ray those that would
    wait for a replica.
    """
    from ray import serve
    from ray.serve.config import BackpressureConfig

    deployment: Any = serve.deployment(
        serve.ingress()(ModelReplica),
        name=ModelReplica.__name__,
        num_replicas=resources.replicas,
        ray_actor_options={"num_cpus": resources.cpus, "num_gpus": resources.gpus},
        max_ongoing_requests=config.limits.max_in_flight + PROBES,
        max_queued_requests=WAITING,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=DRAIN_S + LOG_FLUSH_S,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        max_constructor_retry_count=1,  # the reason is reported at once
    )
    return deployment.bind(config, context)
