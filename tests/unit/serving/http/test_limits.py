from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.serving.http import limits
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.limits import BodyReader, Budget, ClientDisconnected, RateLimiter


class Sender:
    """ASGI's `receive` of a client that sends chunks, and counts those that are read."""

    def __init__(self, *chunks: bytes | float, ends: bool = True) -> None:
        self._chunks = list(chunks)
        self._ends = ends
        self.received = 0

    async def __call__(self) -> MutableMapping[str, Any]:
        chunk = self._chunks.pop(0) if self._chunks else 3600.0
        if isinstance(chunk, float):
            await asyncio.sleep(chunk)
            return {"type": "http.disconnect"}
        self.received += 1
        more = bool(self._chunks) or not self._ends
        return {"type": "http.request", "body": chunk, "more_body": more}


def read(
    reader: BodyReader, sender: Sender, length: bytes | None = None, *, waits: bool = False
) -> bytes:
    async def run() -> bytes:
        with reader.reserved() as taken:
            return await reader.read(sender, length, taken, waits=waits)

    return asyncio.run(run())


def refused(reader: BodyReader, sender: Sender, length: bytes | None = None) -> RequestError:
    with pytest.raises(RequestError) as error:
        read(reader, sender, length)
    return error.value


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_body_is_the_chunks_up_to_the_limit(chunks: list[bytes]) -> None:
    reader, body = BodyReader(100, 5.0, 1000), b"".join(chunks)
    if len(body) <= 100:
        assert read(reader, Sender(*chunks)) == body
        assert read(reader, Sender(*chunks), str(len(body)).encode()) == body
    else:
        assert refused(reader, Sender(*chunks)).status == 413


@pytest.mark.parametrize("length", [b"101", b"9" * 50, b"-1", b"1e3", b"", b"x"])
def test_declared_length_beyond_the_limit_is_refused(length: bytes) -> None:
    error = refused(BodyReader(100, 5.0, 1000), Sender(b"x"), length)
    assert (error.status, error.closes) == (413, True)


def test_client_that_waits_for_consent_sends_nothing() -> None:
    sender = Sender(b"x" * 200)
    with pytest.raises(RequestError, match="larger than"):
        read(BodyReader(100, 5.0, 1000), sender, b"200", waits=True)
    assert sender.received == 0


def test_body_without_an_end_is_refused_while_it_is_read() -> None:
    sender = Sender(*[b"x" * 60] * 1000, ends=False)
    assert refused(BodyReader(100, 5.0, 1000), sender).status == 413
    assert sender.received <= 12  # five bodies of 100 bytes are dropped, not stored


def test_slow_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(BodyReader(100, 0.05, 1000), Sender(b"x", ends=False))
    assert (error.status, error.reason, error.closes) == (408, "timeout", True)
    monkeypatch.setattr(limits, "DRAIN_S", 0.05)
    assert refused(BodyReader(100, 5.0, 1000), Sender(b"x", ends=False), b"101").status == 413


def test_closed_connection_ends_the_reading() -> None:
    with pytest.raises(ClientDisconnected):
        read(BodyReader(100, 5.0, 1000), Sender(b"x", 0.0))


def test_memory_of_all_bodies_is_limited_and_given_back() -> None:
    reader = BodyReader(100, 0.5, 150)

    async def run() -> None:
        with reader.reserved() as first, reader.reserved() as second:
            await reader.read(Sender(b"x" * 100), None, first)
            with pytest.raises(RequestError) as error:
                await reader.read(Sender(b"x" * 60), None, second)
            assert (error.value.status, error.value.retry_after) == (503, 1)
        with reader.reserved() as third:
            await reader.read(Sender(b"x" * 100), None, third)

    asyncio.run(run())
    assert reader._budget.used == 0


def test_budget_lets_a_single_large_amount_pass() -> None:
    budget = Budget(10, "pixels")
    with budget.reserve(25):
        with pytest.raises(RequestError, match="too many pixels in flight"), budget.reserve(1):
            pass
        assert budget.used == 25
    with budget.reserve(4), budget.reserve(6):
        assert budget.used == 10
    assert budget.used == 0


def test_rate_is_limited_per_client() -> None:
    now = [0.0]
    limiter = RateLimiter(2.0, clock=lambda: now[0])
    for _ in range(2):
        limiter.check("a")
    with pytest.raises(RequestError) as error:
        limiter.check("a")
    assert (error.value.status, error.value.retry_after) == (429, 0.5)
    assert error.value.headers()["retry-after"] == "1"
    limiter.check("b")
    now[0] = 0.5
    limiter.check("a")
    with pytest.raises(RequestError):
        limiter.check("a")


@given(st.lists(st.floats(0, 0.4), min_size=20, max_size=200))
def test_rate_over_time_is_never_exceeded(pauses: list[float]) -> None:
    now = [0.0]
    limiter = RateLimiter(5.0, clock=lambda: now[0])
    allowed = 0
    for pause in pauses:
        now[0] += pause
        try:
            limiter.check("a")
        except RequestError:
            continue
        allowed += 1
    assert allowed <= 5 + 5 * now[0] + 1e-6
    assert allowed >= min(len(pauses), 5)


def test_number_of_remembered_clients_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 10)
    limiter = RateLimiter(1.0)
    for number in range(100):
        limiter.check(str(number))
    assert len(limiter._buckets) == 10
