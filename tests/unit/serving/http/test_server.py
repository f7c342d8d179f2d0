from __future__ import annotations

import socket

import pytest

from eyevsai.core.errors import UserError
from eyevsai.serving.http.server import bind


def test_listener_is_bound_but_accepts_nobody_before_the_server_runs() -> None:
    listener = bind("127.0.0.1", 0)
    with listener.socket:
        assert listener.url == f"http://127.0.0.1:{listener.port}"
        # otherwise asyncio does not set TCP_NODELAY, and each answer takes 40 ms
        assert listener.socket.proto == socket.IPPROTO_TCP
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port), timeout=5)


def test_address_in_use_is_an_error_that_names_the_options() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1 port {port}.*--port"):
            bind("127.0.0.1", port)


def test_address_of_ipv6_is_in_brackets() -> None:
    try:
        listener = bind("::1", 0, is_tls=True)
    except UserError:
        pytest.skip("no IPv6 here")
    with listener.socket:
        assert listener.url == f"https://[::1]:{listener.port}"
