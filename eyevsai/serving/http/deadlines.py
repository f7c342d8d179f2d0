"""HTTP/1.1 protocol of uvicorn with deadlines for requests, and limits of headers and connections.

uvicorn itself waits without limit for the headers of a request: a client that sends one byte a
minute (slow loris) occupies a connection for ever.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.http.tls import Factory, add_tls

# seconds for the last bytes of a connection, such as those of a refusal (408), before it is closed
CLOSE_S = 2.0
MAX_HEADERS = 64 * 1024  # bytes that are read before the headers of a request are complete

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Base
else:
    Base = object  # a class of uvicorn follows it in the order of methods


def make_http_protocol(limits: LimitSettings, context: ssl.SSLContext | None = None) -> Factory:
    """Return the class or function for `http` of uvicorn's configuration.

    It parses with httptools if that is installed (in C), else with h11.

    Args:
        limits: deadlines and sizes.
        context: certificate and key for TLS; None without TLS. Uvicorn gets none of its own.
    """
    try:
        import httptools  # noqa: F401
    except ImportError:
        protocol = make_h11_protocol(limits)
    else:
        protocol = make_httptools_protocol(limits)
    return protocol if context is None else add_tls(protocol, context, limits)


def make_h11_protocol(limits: LimitSettings) -> type[asyncio.Protocol]:
    """Return the protocol that parses with h11."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class LimitedH11(_Limited, H11Protocol):
        """The state of h11 is compared after each part of a request."""

        LIMITS = limits

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.SEND_BODY:
                self._await_body()
            elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self._await_headers(len(data))
            else:
                self._end_request()

    return LimitedH11


def make_httptools_protocol(limits: LimitSettings) -> type[asyncio.Protocol]:
    """Return the protocol that parses with httptools."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    # for mypy alone, _Limited has the other protocol as its base
    class LimitedHttpTools(_Limited, HttpToolsProtocol):  # type: ignore[misc]
        """The parser calls a method at each change of the state."""

        LIMITS = limits
        _in_headers = False

        def on_message_begin(self) -> None:
            self._in_headers = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_headers = False
            self._await_body()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._end_request()
            super().on_message_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_headers:
                self._await_headers(len(data))

    return LimitedHttpTools


class _Limited(Base):
    """Connection that is closed if a request does not arrive in time.

    A timer runs from the connection, or the first byte of a later request, to the end of the
    headers; another from there to the end of the body. The application refuses a slow body before
    the second one closes the connection.
    """

    LIMITS: LimitSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._awaits_body = False
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.LIMITS.max_connections:
            self._refuse(503, "Too many connections. Try again later.")
        else:
            self._start(self.LIMITS.header_timeout_s)

    def shutdown(self) -> None:
        """Close the connection when the server ends, after the answer to a request in flight."""
        super().shutdown()
        if self.transport.get_extra_info("sslcontext") and self.transport.is_closing():
            # TLS would wait for an idle client, which does not read, until the end of the drain
            self.loop.call_later(CLOSE_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_request()
        super().connection_lost(exc)

    def _await_headers(self, received: int) -> None:
        """Note that a part of the headers was received."""
        self._header_bytes += received
        if self._header_bytes > MAX_HEADERS:
            self._refuse(431, f"The headers are larger than {MAX_HEADERS // 1024} KB.")
        elif self._awaits_body or self._timer is None:
            self._start(self.LIMITS.header_timeout_s)

    def _await_body(self) -> None:
        """Note that the headers are complete."""
        self._header_bytes = 0
        if not self._awaits_body:
            self._start(self.LIMITS.body_timeout_s + CLOSE_S)
            self._awaits_body = True

    def _end_request(self) -> None:
        """Note that a request is complete."""
        self._awaits_body, self._header_bytes = False, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._awaits_body = False
        self._timer = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._awaits_body or not self._header_bytes:
            self.transport.close()
        else:
            seconds = f"{self.LIMITS.header_timeout_s:g}"
            self._refuse(408, f"The headers did not arrive within {seconds} s.")

    def _refuse(self, status: int, message: str) -> None:
        """Send a response to a request that was not parsed, and close the connection."""
        if self.transport.is_closing():
            return
        body = json.dumps({"error": message}).encode()
        retry = "retry-after: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"{retry}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
