"""Limits that all requests share: rates, bytes and pixels in flight, and the reading of a body."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from eyevsai.serving.http.errors import RequestError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_CLIENTS = 10_000  # clients whose rate is remembered; the one that was idle longest is forgotten
DRAIN_S = 2.0  # seconds for which the rest of a body that is too large is read and dropped
DRAIN_BODIES = 5  # the same in multiples of the largest body


class RateLimiter:
    """Token bucket per client: `rate` requests per second, and as many at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, time

    def check(self, client: str) -> None:
        """Count a request of a client.

        Raises:
            RequestError: it exceeds the rate (429).
        """
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - then) * self._rate)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RequestError(
                429,
                f"More than {self._rate:g} requests per second. Send fewer, or several images in "
                "one request.",
                reason="rate",
                retry_after=(1 - tokens) / self._rate,
            )


class Budget:
    """Amount of a resource that all requests share, such as pixels; for several threads."""

    def __init__(self, total: float, what: str) -> None:
        self._total = total
        self._what = what
        self._used = 0.0
        self._lock = threading.Lock()

    @property
    def used(self) -> float:
        """Amount in use."""
        return self._used

    def take(self, amount: float) -> None:
        """Reserve an amount; a single request may take more than the total.

        Raises:
            RequestError: too much of it is in use (503).
        """
        with self._lock:
            if self._used and self._used + amount > self._total:
                raise RequestError(
                    503,
                    f"The server is busy: too many {self._what} in flight. Try again later.",
                    reason="busy",
                    retry_after=1,
                )
            self._used += amount

    def release(self, amount: float) -> None:
        """Give back an amount."""
        with self._lock:
            self._used -= amount

    @contextmanager
    def reserve(self, amount: float) -> Iterator[None]:
        """Reserve an amount while the context is open; see `take`."""
        self.take(amount)
        try:
            yield
        finally:
            self.release(amount)


class ClientDisconnected(Exception):  # noqa: N818  # a state of the connection, not an error
    """The client closed the connection before its request was complete."""


class BodyReader:
    """Reader of request bodies with a limit of their size, time and total memory."""

    def __init__(self, max_body: int, timeout_s: float, total: int) -> None:
        self._max_body = max_body
        self._timeout_s = timeout_s
        self._budget = Budget(total, "bytes")

    @contextmanager
    def reserved(self) -> Iterator[list[int]]:
        """Yield the counter of one body, whose bytes are given back at the end."""
        taken = [0]
        try:
            yield taken
        finally:
            self._budget.release(taken[0])

    async def read(
        self, receive: Receive, length: bytes | None, taken: list[int], *, waits: bool = False
    ) -> bytes:
        """Return the body of a request.

        Args:
            receive: ASGI's function.
            length: value of the header Content-Length; None without one.
            taken: counter of `reserved`.
            waits: the client waits for consent to send the body (Expect: 100-continue).

        Raises:
            RequestError: it is too large (413), too slow (408), or memory is short (503).
            ClientDisconnected: the client closed the connection.
        """
        if length is not None and (not length.isdigit() or int(length[:20]) > self._max_body):
            if not waits:
                await self._drain(receive)
            raise self._too_large()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read(receive, taken)
        except TimeoutError:
            raise RequestError(
                408,
                f"The body did not arrive within {self._timeout_s:g} s.",
                reason="timeout",
                closes=True,
            ) from None

    async def _read(self, receive: Receive, taken: list[int]) -> bytes:
        chunks: list[bytes] = []
        while True:
            chunk, has_more = await _next_chunk(receive)
            if taken[0] + len(chunk) > self._max_body:
                chunks.clear()
                if has_more:
                    await self._drain(receive)
                raise self._too_large()
            self._budget.take(len(chunk))
            taken[0] += len(chunk)
            chunks.append(chunk)
            if not has_more:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _drain(self, receive: Receive) -> None:
        """Drop the rest of a body for a while.

        A client that still sends would otherwise see a closed connection instead of the response.
        """
        dropped, has_more = 0, True
        try:
            async with asyncio.timeout(DRAIN_S):
                while has_more and dropped < DRAIN_BODIES * self._max_body:
                    chunk, has_more = await _next_chunk(receive)
                    dropped += len(chunk)
        except TimeoutError:
            return

    def _too_large(self) -> RequestError:
        return RequestError(
            413,
            f"The body is larger than {self._max_body / 1e6:g} MB. Send smaller images or fewer.",
            reason="body",
            closes=True,
        )


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return message.get("body", b""), message.get("more_body", False)
