"""Slow, endless and too many clients of a real server."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from eyevsai.serving.http.deadlines import (
    make_h11_protocol,
    make_http_protocol,
    make_httptools_protocol,
)
from eyevsai.serving.http.guard import Guard
from eyevsai.serving.http.security_settings import LimitSettings, SecuritySettings
from tests.unit.serving.http.live import serving, write_certificate

LIMITS = LimitSettings(
    header_timeout_s=0.4, body_timeout_s=0.4, max_body_mb=0.1, max_connections=10
)
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"


async def count(scope: Any, receive: Any, send: Any) -> None:
    """Return the length of the body."""
    if scope["type"] == "http":
        body = await Request(scope, receive).body()
        await Response(str(len(body)))(scope, receive, send)


@pytest.fixture(scope="module", params=[make_h11_protocol, make_httptools_protocol])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    guard = Guard(count, security=SecuritySettings(), limits=LIMITS, host="127.0.0.1")
    with serving(guard, http=request.param(LIMITS), lifespan="off") as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def receive(client: socket.socket) -> bytes:
    """Return everything until the server closes the connection."""
    content = b""
    try:
        while part := client.recv(65536):
            content += part
    except ConnectionResetError:
        return content
    return content


def receive_body(client: socket.socket) -> bytes:
    """Return the body of a response that is one byte long."""
    content = b""
    while not content.partition(b"\r\n\r\n")[2]:
        content += client.recv(65536)
    return content.partition(b"\r\n\r\n")[2]


def trickle(client: socket.socket, content: bytes, pause_s: float = 0.1) -> None:
    """Send a byte at a time, until the server closes the connection."""
    for index in range(len(content)):
        try:
            client.sendall(content[index : index + 1])
        except OSError:
            return
        time.sleep(pause_s)


def test_silent_connection_is_closed(port: int) -> None:
    start = time.monotonic()
    with connect(port) as client:
        assert receive(client) == b""
    assert time.monotonic() - start < 5


def test_slow_headers_get_408(port: int) -> None:
    start = time.monotonic()
    with connect(port) as client:
        trickle(client, HEAD[:10])
        response = receive(client)
    assert response.startswith(b"HTTP/1.1 408")
    assert b"The headers did not arrive within 0.4 s." in response
    assert time.monotonic() - start < 5


def test_slow_headers_of_a_second_request_get_408(port: int) -> None:
    with connect(port) as client:
        client.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
        assert receive_body(client) == b"3"
        trickle(client, HEAD[:10])
        assert receive(client).startswith(b"HTTP/1.1 408")


def test_idle_connection_is_kept_for_the_next_request(port: int) -> None:
    with connect(port) as client:
        for _ in range(2):
            client.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
            assert receive_body(client) == b"3"
            time.sleep(0.7)  # longer than the deadline of the headers


@pytest.mark.parametrize("header", [b"Content-Length: 50", b"Transfer-Encoding: chunked"])
def test_slow_body_gets_408(port: int, header: bytes) -> None:
    with connect(port) as client:
        client.sendall(HEAD + header + b"\r\n\r\n")
        trickle(client, b"1\r\nx\r\n" if b"chunked" in header else b"xxxxxx")
        response = receive(client)
    assert response.startswith(b"HTTP/1.1 408")
    assert b"The body did not arrive within 0.4 s." in response


def test_chunked_body_without_an_end_gets_413(port: int) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with connect(port) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 60_000_000:
                client.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        response = receive(client)
    assert sent < 30_000_000  # limit 0.1 MB, five times as much is dropped, and buffers of sockets
    assert not response or response.startswith(b"HTTP/1.1 413")


def test_client_reads_413_after_it_sent_too_much(port: int) -> None:
    content = b"x" * 300_000
    with connect(port) as client:
        client.sendall(HEAD + b"Content-Length: 300000\r\n\r\n" + content)
        response = receive(client)
    assert response.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in response


def test_client_that_asks_first_is_refused_before_it_sends(port: int) -> None:
    with connect(port) as client:
        client.sendall(HEAD + b"Content-Length: 300000\r\nExpect: 100-continue\r\n\r\n")
        assert receive(client).startswith(b"HTTP/1.1 413")


def test_too_many_connections_are_closed_and_the_others_are_answered(port: int) -> None:
    clients = [connect(port) for _ in range(30)]
    try:
        refused = 0
        for client in clients[15:]:
            response = receive(client)
            refused += response.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in response
        assert refused >= 10
    finally:
        for client in clients:
            client.close()
    time.sleep(0.2)
    with connect(port) as client:
        client.sendall(HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc")
        assert receive(client).startswith(b"HTTP/1.1 200")


def test_headers_without_an_end_are_refused(port: int) -> None:
    with connect(port) as client:
        with contextlib.suppress(OSError):
            client.sendall(HEAD + b"X: " + b"x" * 5_000_000)
        response = receive(client)
    assert not response or response[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431")


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def tls_port(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path_factory.mktemp("tls")))
    guard = Guard(count, security=SecuritySettings(), limits=LIMITS, host="127.0.0.1")
    http = make_http_protocol(LIMITS, context)
    with serving(guard, http=http, lifespan="off", loop=request.param) as port:
        yield port


def connect_tls(port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connect(port))


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_handshake_that_stalls_is_closed(tls_port: int, sent: bytes) -> None:
    start = time.monotonic()
    with connect(tls_port) as client:
        client.sendall(sent)
        receive(client)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_handshakes_are_counted_as_connections(loop: str, tmp_path: Path) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    limits = replace(LIMITS, header_timeout_s=60.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path))
    http = make_http_protocol(limits, context)
    with serving(count, http=http, lifespan="off", loop=loop) as port:
        stalled = [connect(port) for _ in range(limits.max_connections)]
        start = time.monotonic()
        refused = False
        while not refused and time.monotonic() - start < 20:  # until the server has seen them all
            with connect(port) as client:
                client.settimeout(1)
                with contextlib.suppress(TimeoutError):
                    refused = receive(client) == b""
        for client in stalled:
            client.close()
        assert refused
        is_answered = False
        while not is_answered and time.monotonic() - start < 40:
            with contextlib.suppress(OSError), connect_tls(port) as client:
                client.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
                is_answered = receive_body(client) == b"3"
        assert is_answered


def test_requests_over_tls_are_answered_and_have_deadlines(tls_port: int) -> None:
    with connect_tls(tls_port) as client:
        for _ in range(2):
            client.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
            assert receive_body(client) == b"3"
        trickle(client, HEAD[:10])
        assert receive(client).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_idle_client_of_tls_does_not_delay_the_end_of_the_server(loop: str, tmp_path: Path) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path))
    http = make_http_protocol(LIMITS, context)
    with serving(count, http=http, lifespan="off", loop=loop) as port:
        client = connect_tls(port)
        client.sendall(HEAD + b"Content-Length: 3\r\n\r\nabc")
        assert receive_body(client) == b"3"
        start = time.monotonic()
    # asyncio would wait 30 s for a client that does not answer the end of TLS
    assert time.monotonic() - start < 15
    client.close()
