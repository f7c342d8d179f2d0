"""A complete server from its settings: versions, router, workers, log, metrics and application."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import Any

from eyevsai.core.cores import count_cores
from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import ModelRef, parse_model
from eyevsai.core.paths import expand
from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.secret import load_secret
from eyevsai.inference_log.settings import SECRET, LogWriterSettings
from eyevsai.inference_log.writer import open_writer
from eyevsai.serving.http.access import HostPolicy, check_exposure, is_exposed
from eyevsai.serving.http.answers import PRODUCTION
from eyevsai.serving.http.app import build_app
from eyevsai.serving.http.deadlines import make_http_protocol
from eyevsai.serving.http.follower import Follower
from eyevsai.serving.http.guard import Guard
from eyevsai.serving.http.image_reader import ImageReader
from eyevsai.serving.http.last_good import LastGood
from eyevsai.serving.http.log_sink import LogCollector, LogSink, describe_log
from eyevsai.serving.http.metrics import Metrics
from eyevsai.serving.http.metrics_server import METRICS_HOST, MetricsServer
from eyevsai.serving.http.registry_source import CUDA, LoadOptions, RegistrySource
from eyevsai.serving.http.rollout_router import RolloutRouter
from eyevsai.serving.http.routing import ProductionRouter, Router
from eyevsai.serving.http.security_settings import LimitSettings, SecuritySettings
from eyevsai.serving.http.server import END_S, Listener, bind, run_server
from eyevsai.serving.http.service import PredictionService
from eyevsai.serving.http.settings import ServeSettings
from eyevsai.serving.http.tls import load_certificate
from eyevsai.serving.http.versions import VersionTable
from eyevsai.serving.http.workers import WorkerPool
from eyevsai.serving.rollout_log import StoredRolloutLog
from eyevsai.store.uris import find_store, mask_password

log = logging.getLogger("eyevsai")

QUEUE_PER_WORKER = 16


@dataclass(frozen=True)
class ServerConfig:
    """All settings of a server."""

    serve: ServeSettings
    security: SecuritySettings = field(default_factory=SecuritySettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    log: LogWriterSettings = field(default_factory=LogWriterSettings)


class ModelServer:
    """Server of one registered model. `load`, then `bind`, then `run`.

    Args:
        config: all settings.
        server_id: name of the server among all servers of the model; by default, that of the
            machine with the port.

    Raises:
        UserError: the settings contradict each other, or expose the server without protection.
    """

    def __init__(self, config: ServerConfig, server_id: str | None = None) -> None:
        self.config = config
        self._server_id = server_id or f"{platform.node()}:{config.serve.port or os.getpid()}"
        settings = config.serve
        check_exposure(settings.host, config.security)
        self.reference = parse_served(settings.name)
        name = str(self.reference.name)
        self.alias = None if self.reference.version else find_alias(self.reference)
        size = settings.workers or count_cores()
        use_one_thread_each()
        self._writer = open_writer(config.log)
        reader = ImageReader(config.limits, size)
        options = LoadOptions(
            reader.read_one, is_logged=self._writer is not None, device=find_device(settings.device)
        )
        table = VersionTable()
        metrics = Metrics(name, table, self.alias)
        router = self._make_router(table, metrics)
        pool = WorkerPool(size, settings.queue or QUEUE_PER_WORKER * size, settings.stuck_after_s)
        identities = self._writer.identities if self._writer else Identities(secrets.token_bytes())
        self.service = PredictionService(
            name,
            table,
            router,
            pool,
            metrics=metrics,
            new_id=identities.new_id,
            id_of_request=identities.id_of_request,
        )
        if self._writer is not None:
            sink = LogSink(self._writer)
            self.service.sinks.append(sink)
            table.on_loaded.append(sink.put_version)
            metrics.registry.register(LogCollector(self._writer, name))
            self.service.status_parts["log"] = partial(describe_log, self._writer)
        self.follower = Follower(
            RegistrySource(name, options),
            table,
            router,
            LastGood(
                expand(settings.state_dir), mask_password(find_store()), self._reference_text()
            ),
            metrics,
            alias=self.alias,
            has_class_consent=settings.class_change,
            poll_s=settings.poll_s,
        )
        self.service.status_parts["registry"] = self._registry_status
        self.listener: Listener | None = None
        self._ends_at: float | None = None  # monotonic time, after a signal
        self._stopping = Thread(target=self.follower.stop, daemon=True)

    def load(self) -> None:
        """Load the version to start with.

        Raises:
            UserError: there is none.
        """
        self.follower.load_first()

    def bind(self) -> Listener:
        """Bind the address of the server.

        Raises:
            UserError: it cannot be used.
        """
        settings = self.config.serve
        self.listener = bind(
            settings.host, settings.port, is_tls=self.config.security.tls_cert is not None
        )
        return self.listener

    def describe(self) -> dict[str, str]:
        """Return URI, format and model name of the version in production, after `load`."""
        version = self.service.table.production
        assert version is not None  # else `load` raises
        return {"uri": version.uri, "format": version.format, "name": version.name}

    def make_app(self, *, has_metrics: bool | None = None) -> Any:
        """Return the ASGI application with all checks of requests.

        `has_metrics` adds /metrics; by default, unless it has a port of its own.
        """
        settings, config = self.config.serve, self.config
        if has_metrics is None:
            has_metrics = settings.metrics_port is None
        app = build_app(
            self.service,
            top_k=settings.top_k,
            routers=self._make_routers(),
            lifespan=self._lifespan,
            has_docs=not is_exposed(settings.host, config.security),
            has_metrics=has_metrics,
        )
        return Guard(
            app,
            security=config.security,
            limits=config.limits,
            host=settings.host,
            on_reject=self.service.metrics.reject,
        )

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until a signal, and answer the requests in flight.

        Args:
            on_ready: called when the server listens.
        """
        listener = self.listener or self.bind()
        security = self.config.security
        metrics_server = self._start_metrics()
        try:
            run_server(
                self.make_app(),
                listener,
                on_ready=on_ready,
                on_drain=self._drain,
                http=make_http_protocol(self.config.limits, load_certificate(security)),
                # else a client could choose its address, whose rate is limited
                proxy_headers=security.behind_proxy,
            )
        finally:
            if metrics_server is not None:
                metrics_server.close()

    def close(self) -> None:
        """Stop the follower and write the log; the number of lost records is logged.

        A log that is unreachable delays the end no longer than until END_S after the signal.
        """
        if self._ends_at is None:
            self._ends_at = time.monotonic() + END_S
            self._stopping.start()
        self._stopping.join()
        if self._writer is None:
            return
        if lost := self._writer.close(max(0.0, self._ends_at - time.monotonic())):
            log.warning("%d records of the inference log were lost.", lost)

    def _drain(self) -> None:
        """Begin the end, at a signal."""
        self.service.is_draining = True
        self._ends_at = time.monotonic() + END_S
        self._stopping.start()  # it may wait for the registry while requests are answered

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        self.follower.start()
        yield

    def _start_metrics(self) -> MetricsServer | None:
        """Serve /metrics at a port of its own, if one is set; return that server."""
        port = self.config.serve.metrics_port
        if port is None:
            return None
        if self.listener is not None and self.listener.is_at(METRICS_HOST, port):
            # both sockets could be bound, and one of them would get no connections
            raise UserError(f"--metrics-port {port} is the port of the server. Choose another.")
        hosts = HostPolicy(METRICS_HOST, self.config.security)
        try:
            server = MetricsServer(port, self.service.metrics.registry, hosts)
        except OSError as error:
            raise UserError(
                f"--metrics-port {port} cannot be used: {error.strerror or error}. Choose another."
            ) from error
        log.info("Metrics: http://%s:%d/metrics", METRICS_HOST, server.port)
        return server

    def _make_router(self, table: VersionTable, metrics: Metrics) -> Router:
        """Return the router: that of rollouts for the alias `production`."""
        if self.alias != PRODUCTION:
            return ProductionRouter(table, self.alias, self.reference.version)
        settings = self.config.log
        rollout_log = None
        if self._writer is not None:
            secret = load_secret(settings.log_secret_file, self._writer.store.path)
            rollout_log = StoredRolloutLog(self._writer.store)
        elif os.environ.get(SECRET):  # replicas split keys equally without a log, too
            secret = load_secret(None, None)
        else:
            secret = secrets.token_bytes()
        poll_s = self.config.serve.poll_s
        return RolloutRouter(table, secret, rollout_log, self._server_id, metrics, poll_s=poll_s)

    def _make_routers(self) -> list[Any]:
        from eyevsai.serving.http import inference_v2, invocations

        limits = self.config.limits
        routers = [
            invocations.make_router(self.service, limits),
            inference_v2.make_router(self.service, limits),
        ]
        if self._writer is not None:
            from fastapi import APIRouter

            from eyevsai.serving.http.feedback import make_feedback_route

            feedback = APIRouter()
            handler = make_feedback_route(self._writer, self._classes)
            feedback.add_api_route("/v1/feedback", handler, methods=["POST"], status_code=202)
            routers.append(feedback)
        return routers

    def _classes(self) -> set[str]:
        return {name for version in self.service.table.loaded() for name in version.classes}

    def _registry_status(self) -> dict[str, Any]:
        age = self.follower.age_s()
        return {
            "age_s": None if age is None else round(age, 1),
            "error": self.follower.error,
            "from_copy": self.follower.is_from_copy,
            "alias": self.alias,
        }

    def _reference_text(self) -> str:
        name, version = self.reference.name, self.reference.version
        return f"{name}@{self.alias}" if version is None else f"{name}-{version}"


def parse_served(text: str | None) -> ModelRef:
    """Return the reference of a server: a name, an alias, a stage or a version.

    Raises:
        UserError: it is missing, or is another reference.
    """
    forms = "Use NAME, NAME@ALIAS or NAME/VERSION of a registered model"
    if text is None:
        raise UserError(f"Which model? {forms}; `eyevsai registry status` lists them.")
    reference = parse_model(text)
    if reference.name is None:
        raise UserError(f"{text} cannot be served: it is no registered model. {forms}.")
    return reference


def find_alias(reference: ModelRef) -> str:
    """Return the alias that a server of a reference follows; that of production by default."""
    return reference.alias or reference.stage or PRODUCTION


def find_device(name: str) -> str:
    """Return `cpu` or `cuda` for a value of --device.

    Raises:
        UserError: CUDA is required, and torch does not find it.
    """
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError("--device cuda is not available to torch on this machine. Use auto.")
    return CUDA


def use_one_thread_each() -> None:
    """Let each worker compute on one thread: more would compete for the cores."""
    import torch

    torch.set_num_threads(1)
