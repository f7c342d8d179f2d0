"""Process of the server: socket, event loop, signals and drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from eyevsai.core.errors import UserError

log = logging.getLogger("eyevsai")

BACKLOG = 2048  # connections that wait to be accepted
END_S = 7.0  # from a signal to the end of the log; the end of the process can take 2 s more
DRAIN_S = 6.0  # of these for requests in flight; the rest is for threads and the log
KEEP_ALIVE_S = 75.0  # longer than the idle connections of proxies, which would reuse a closed one
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")  # those that the system has end the server


@dataclass(frozen=True)
class Listener:
    """Bound socket of a server, on which nobody can connect before `run_server`."""

    socket: socket.socket
    url: str

    @property
    def port(self) -> int:
        """Port that the socket is bound to."""
        return int(self.socket.getsockname()[1])

    def is_at(self, address: str, port: int) -> bool:
        """Return True if connections to an address of IPv4 reach this socket."""
        return port == self.port and self.socket.getsockname()[0] in (address, "0.0.0.0", "::")


def bind(host: str, port: int, *, is_tls: bool = False) -> Listener:
    """Bind a socket to an address; port 0 takes a free port.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # with the protocol of TCP, without which asyncio would not set TCP_NODELAY: the body of an
        # answer would wait 40 ms for the acknowledgement of its head
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise UserError(
            f"The server cannot listen on {host} port {port}: {error.strerror or error}. Choose "
            "another address with --host and --port."
        ) from error
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if is_tls else "http"
    return Listener(bound, f"{scheme}://{shown}:{bound.getsockname()[1]}")


class _Server(uvicorn.Server):
    """Server that calls a function when it listens; signals are handled by `run_server`."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(
    app: Any,
    listener: Listener,
    *,
    on_ready: Callable[[], None],
    on_drain: Callable[[], None],
    **options: Any,
) -> None:
    """Serve an ASGI application until a signal, then answer the requests in flight, and return.

    Args:
        app: the application.
        listener: socket to listen on.
        on_ready: called when the server listens.
        on_drain: called at the first signal.
        options: further options of `uvicorn.Config`.
    """
    config = uvicorn.Config(
        app,
        backlog=BACKLOG,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=int(DRAIN_S),
        ws="none",
        **options,
    )
    server = _Server(config, on_ready)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listener.socket, on_drain))


async def _serve(server: _Server, bound: socket.socket, on_drain: Callable[[], None]) -> None:
    def stop(number: int, _: object = None) -> None:
        if not server.should_exit:
            log.info("%s: answering the requests in flight.", signal.Signals(number).name)
            on_drain()
            server.should_exit = True

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)  # by `nohup`
    handlers = {number: signal.signal(number, stop) for number in numbers}
    try:
        await server.serve(sockets=[bound])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
