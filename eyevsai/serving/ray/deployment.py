"""Application of Ray Serve: start of its proxies, deployment, supervision and end."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eyevsai.core.errors import JobError, UserError, first_line
from eyevsai.core.paths import expand
from eyevsai.serving.http.assembly import ServerConfig
from eyevsai.serving.http.server import KEEP_ALIVE_S, SIGNALS, bind
from eyevsai.serving.ray.replica import find_error

log = logging.getLogger("eyevsai")

POLL_S = 0.5  # between two looks at the state of the application
SLOW_S = 20.0  # after which the reason why replicas do not start is logged
REQUEST_S = 300.0  # longest request, after which Ray's proxy answers 408
FAILED = "failed to start"  # in Ray's messages about replicas
SERVE_LOGGER = "ray.serve"


@dataclass(frozen=True)
class Proxies:
    """HTTP proxies of the cluster.

    Attributes:
        url: their URL on this machine.
        is_own: this command started them, and ends them unless other applications use them.
    """

    url: str
    is_own: bool


class Stop:
    """Signal that ends the command; later ones are ignored, so that they interrupt no shutdown."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self, number: int, _: object = None) -> None:
        """Handle a signal."""
        if not self._event.is_set():
            log.info("%s: ending the replicas.", signal.Signals(number).name)
            self._event.set()

    @property
    def is_requested(self) -> bool:
        """True after a signal."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for a signal; return True after one."""
        return self._event.wait(seconds)


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Handle the signals that end a server inside the block."""
    stop = Stop()
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)  # by `nohup`
    handlers = {number: signal.signal(number, stop.request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def start_proxies(config: ServerConfig, *, is_temporary: bool) -> Proxies:
    """Start the proxies of Ray Serve on every machine with replicas, or use those that run.

    Args:
        config: address, certificate and limits.
        is_temporary: the cluster ends with this command, and the proxies with it.

    Raises:
        UserError: the address cannot be used, or the proxies that run have another one.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client

    logging.getLogger(SERVE_LOGGER).setLevel(logging.ERROR)
    settings, security = config.serve, config.security
    is_tls = security.tls_cert is not None
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        _check_running(client.http_config, config)
        return Proxies(_make_url(settings.host, client.http_config.port, is_tls), is_own=False)
    listener = bind(settings.host, settings.port, is_tls=is_tls)
    port, url = listener.port, listener.url
    listener.socket.close()  # Ray's proxies bind it again
    options = HTTPOptions(
        host=settings.host,
        port=port,
        request_timeout_s=max(REQUEST_S, config.limits.body_timeout_s + settings.stuck_after_s),
        keep_alive_timeout_s=int(KEEP_ALIVE_S),
        ssl_certfile=security.tls_cert and str(expand(security.tls_cert)),
        ssl_keyfile=security.tls_key and str(expand(security.tls_key)),
    )
    try:
        serve.start(proxy_location="EveryNode", http_options=options)
    except Exception as error:  # Ray raises RuntimeError, TimeoutError and errors of its actors
        raise JobError(
            f"The proxies of Ray Serve cannot listen on {settings.host} port {port}: "
            f"{first_line(error)[:300]}"
        ) from error
    return Proxies(url, is_own=not is_temporary)


def _check_running(options: Any, config: ServerConfig) -> None:
    """Raise UserError if the proxies that run have another address or certificate."""
    settings, security = config.serve, config.security
    certificate = security.tls_cert and str(expand(security.tls_cert))
    wanted = (settings.host, certificate)
    if (options.host, options.ssl_certfile) == wanted and settings.port in (0, options.port):
        return
    tls = "with TLS" if options.ssl_certfile else "without TLS"
    raise UserError(
        f"Ray Serve runs on this cluster already, on {options.host} port {options.port} {tls}. Use "
        f"the same --host, --port and --tls-cert, or end it with `serve shutdown`."
    )


def _make_url(host: str, port: int, is_tls: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"


def deploy(name: str, application: Any, stop: Stop) -> dict[str, str] | None:
    """Deploy an application, or replace the one of the same name, and wait for its replicas.

    Args:
        name: name of the application.
        application: result of `make_application`.
        stop: ends the waiting.

    Returns:
        URI, format and model name of the version that is served; None after a signal.

    Raises:
        JobError: a replica failed to start, or Ray refused the application.
    """
    from ray import serve

    if name in serve.status().applications:
        log.warning("The application %s of an earlier command is replaced.", name)
    try:
        (handle,) = serve.run_many(
            [serve.RunTarget(application, name=name, route_prefix="/")],
            wait_for_applications_running=False,
        )
    except Exception as error:  # such as the route of another application
        raise JobError(f"Ray Serve refused the application: {first_line(error)[:300]}") from error
    if not _wait(name, stop):
        return None
    return dict(handle.describe.remote().result(timeout_s=REQUEST_S))


def _wait(name: str, stop: Stop) -> bool:
    """Wait until all replicas run; return False after a signal."""
    began_at, is_explained = time.monotonic(), False
    while not stop.wait(POLL_S):
        state = _read_state(name)
        if state.status == "RUNNING":
            return True
        if state.status == "DEPLOY_FAILED" or FAILED in state.message:
            lines = state.message.strip().splitlines() or [f"Ray reports {state.status}."]
            reason = find_error(state.message) or lines[-1][:300]
            raise JobError(f"A replica did not start. {reason}")
        if not is_explained and time.monotonic() - began_at > SLOW_S:
            is_explained = True
            log.info("Waiting for replicas. %s", state.message.strip()[:500])
    return False


def supervise(name: str, stop: Stop) -> None:
    """Report changes of the application until a signal.

    Raises:
        JobError: another program deleted the application.
    """
    is_healthy = True
    while not stop.wait(4 * POLL_S):
        state = _read_state(name)
        if (state.status == "RUNNING") != is_healthy:
            is_healthy = not is_healthy
            if is_healthy:
                log.warning("All replicas run again.")
            else:
                reason = find_error(state.message) or state.message.strip()[:300]
                log.warning("The application is %s. %s", state.status.lower(), reason)


def remove(name: str, proxies: Proxies) -> None:
    """End the replicas after the requests in flight, and the proxies if nobody else uses them."""
    from ray import serve

    if name in serve.status().applications:
        serve.delete(name)
    if proxies.is_own and not serve.status().applications:
        serve.shutdown()  # type: ignore[no-untyped-call,unused-ignore]


@dataclass(frozen=True)
class _State:
    """State of an application, with the messages of its deployments."""

    status: str
    message: str


def _read_state(name: str) -> _State:
    """Return the state of an application.

    Raises:
        JobError: there is no such application.
    """
    from ray import serve

    application = serve.status().applications.get(name)
    if application is None:
        raise JobError(f"The application {name} was deleted by another program.")
    messages = [application.message, *(each.message for each in application.deployments.values())]
    return _State(application.status.value, "\n".join(messages))
