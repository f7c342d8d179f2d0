"""ASGI middleware that checks each request, and reads its body, before the application sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from eyevsai.serving.http.access import HostPolicy
from eyevsai.serving.http.auth import Scope, TokenStore, reject_token_in_url, required_scope
from eyevsai.serving.http.errors import RequestError, error_body
from eyevsai.serving.http.limits import BodyReader, ClientDisconnected, RateLimiter, Receive
from eyevsai.serving.http.security_settings import LimitSettings, SecuritySettings

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scopes = MutableMapping[str, Any]  # ASGI's word for the description of a request
App = Callable[[Scopes, Receive, Send], Awaitable[None]]

LARGEST_BODIES = 10  # bodies of the largest size that fit into the memory for bodies
RETRY_S = 1.0  # advice to a client of a busy server, in seconds
WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# reasons of `on_reject`, for metrics that begin with 0
REASONS = ("host", "origin", "token", "scope", "encoding", "body", "timeout", "rate", "busy")


def _ignore(reason: str) -> None:
    """Count no refusal."""


class Guard:
    """Outermost application of the server.

    Refuses a request with a foreign Host or Origin (403), without a token of the route's scope
    (401, 403), with an encoded body (415), beyond a rate (429), while too much is in flight (503),
    or with a body that is too large (413) or too slow (408). The application receives the whole
    body of a prediction or of feedback in one message.

    Args:
        app: the application.
        security: tokens and host names.
        limits: sizes, times and rates.
        host: address on which the server listens.
        on_reject: called with the reason of each refusal, one of REASONS.
    """

    def __init__(
        self,
        app: App,
        *,
        security: SecuritySettings,
        limits: LimitSettings,
        host: str,
        on_reject: Callable[[str], None] = _ignore,
    ) -> None:
        self._app = app
        self._tokens = TokenStore.load(security.token_file)
        self._hosts = HostPolicy(host, security)
        self._bodies = BodyReader(
            limits.max_body, limits.body_timeout_s, LARGEST_BODIES * limits.max_body
        )
        self._rates = None if limits.max_rate is None else RateLimiter(limits.max_rate)
        self._feedback_rates = RateLimiter(limits.feedback_rate)
        self._max_in_flight = limits.max_in_flight
        self._in_flight = 0
        self._on_reject = on_reject

    async def __call__(self, scope: Scopes, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scopes, receive: Receive, send: Send) -> None:
        headers = _Headers(scope)
        try:
            right = self._check(scope, headers)
            if right not in (Scope.PREDICT, Scope.FEEDBACK):  # probes and metrics are never refused
                # no such route reads a body: a client without a token could fill the memory for all
                await self._app(scope, receive, send)
                return
            self._enter()
            try:
                await self._answer(scope, headers, receive, send)
            finally:
                self._in_flight -= 1
        except ClientDisconnected:
            return
        except asyncio.CancelledError:  # by uvicorn, at the end of the time for open requests
            await self._refuse(
                scope, send, RequestError(503, "The server ends.", reason="draining")
            )
        except RequestError as error:
            await self._refuse(scope, send, error)

    async def _refuse(self, scope: Scopes, send: Send, error: RequestError) -> None:
        self._on_reject(error.reason)
        await _respond(send, scope["path"], error)

    def _enter(self) -> None:
        if self._in_flight >= self._max_in_flight:
            raise RequestError(
                503,
                f"The server is busy: {self._in_flight} requests are in flight. Try again later.",
                reason="busy",
                retry_after=RETRY_S,
            )
        self._in_flight += 1

    def _check(self, scope: Scopes, headers: _Headers) -> Scope | None:
        """Check a request without its body, and return the scope that its route needs."""
        self._hosts.check(headers.all(b"host"), headers.all(b"origin"))
        right, client = required_scope(scope["path"]), _client_of(scope)
        if self._tokens:
            reject_token_in_url(scope["query_string"])
            if right is not None:
                client = self._tokens.authorize(headers.first(b"authorization"), right).id
        encoding = headers.first(b"content-encoding") or b"identity"
        if encoding.lower() != b"identity":
            raise RequestError(
                415,
                "A body with Content-Encoding is not accepted. Send it uncompressed.",
                reason="encoding",
            )
        if right is Scope.FEEDBACK:
            self._feedback_rates.check(client)
        elif right is Scope.PREDICT and self._rates is not None:
            self._rates.check(client)
        return right

    async def _answer(self, scope: Scopes, headers: _Headers, receive: Receive, send: Send) -> None:
        """Read the body and call the application."""
        if scope["method"] not in WITH_BODY:
            await self._app(scope, receive, send)
            return
        with self._bodies.reserved() as taken:
            body = await self._bodies.read(
                receive,
                headers.first(b"content-length"),
                taken,
                waits=headers.first(b"expect") is not None,
            )
            await self._app(scope, _Replay(body, receive), send)


class _Headers:
    """Headers of a request, whose names are lower case in ASGI."""

    def __init__(self, scope: Scopes) -> None:
        self._pairs: list[tuple[bytes, bytes]] = list(scope["headers"])

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a header."""
        return [value for key, value in self._pairs if key == name]

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of a header; None if it is missing."""
        return next((value for key, value in self._pairs if key == name), None)


class _Replay:
    """ASGI's `receive` of a request whose body was read."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _client_of(scope: Scopes) -> str:
    """Return the address of the client."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def _respond(send: Send, path: str, error: RequestError) -> None:
    body = error_body(path, error)
    headers = {**error.headers(), "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
