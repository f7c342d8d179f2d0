"""TLS handshakes with a deadline, which count as connections.

asyncio gives a connection to its protocol after the handshake: before, it would be in no limit, and
a client that never completes it would occupy a socket for a minute.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

from eyevsai.core.paths import expand
from eyevsai.serving.http.security_settings import LimitSettings, SecuritySettings

Factory = Callable[..., asyncio.Protocol]


def load_certificate(settings: SecuritySettings) -> ssl.SSLContext | None:
    """Return the certificate and the key of a server; None without TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(expand(settings.tls_cert), expand(settings.tls_key))
    return context


def add_tls(make_protocol: Factory, context: ssl.SSLContext, limits: LimitSettings) -> Factory:
    """Return the factory of a protocol that begins with a TLS handshake.

    Args:
        make_protocol: factory of the protocol inside of TLS, called as uvicorn does.
        context: certificate and key.
        limits: deadline of the headers, which is also that of the handshake, and the largest number
            of connections.
    """

    def make(**options: Any) -> asyncio.Protocol:
        protocol = make_protocol(**options)
        return _Handshake(protocol, context, limits, options["server_state"].connections)

    return make


class _Handshake(asyncio.Protocol):
    """Connection until its TLS handshake is complete; `connections` are all of the server."""

    def __init__(
        self,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        limits: LimitSettings,
        connections: set[Any],
    ) -> None:
        self._protocol, self._context, self._limits = protocol, context, limits
        self._connections = connections
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the handshake of a connection, and pass it to its protocol when it is encrypted."""
        if self._transport is None:
            self._transport = transport
            self._begin(transport)
        else:
            self._connections.discard(self)
            transport.set_protocol(self._protocol)
            self._protocol.connection_made(transport)

    def _begin(self, transport: asyncio.Transport) -> None:
        if len(self._connections) >= self._limits.max_connections:
            transport.abort()  # an answer would need the handshake
            return
        self._connections.add(self)
        loop = asyncio.get_running_loop()
        complete: asyncio.Future[None] = loop.create_future()
        complete.add_done_callback(self._end)
        # as the loop does for `ssl`; its `start_tls` would lose what uvloop reads before that
        encrypted = SSLProtocol(
            loop,
            self,
            self._context,
            complete,
            server_side=True,
            ssl_handshake_timeout=self._limits.header_timeout_s,  # type: ignore[arg-type]  # float
        )
        transport.set_protocol(encrypted)
        encrypted.connection_made(transport)

    def shutdown(self) -> None:
        """End the handshake; uvicorn calls it for each connection when the server ends."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self, complete: asyncio.Future[None]) -> None:
        """Close the connection if the handshake failed."""
        self._connections.discard(self)
        if self._transport is not None and (complete.cancelled() or complete.exception()):
            self._transport.abort()
