from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eyevsai.core.errors import UserError
from eyevsai.inference_log.settings import OFF, SECRET, LogWriterSettings
from eyevsai.serving.http import assembly
from eyevsai.serving.http.security_settings import SecuritySettings
from eyevsai.serving.http.server import Listener, bind, run_server
from eyevsai.serving.http.settings import ServeSettings
from tests.conftest import find_port
from tests.unit.serving.http.live import write_certificate


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


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Take part in the start and the end of a server; it gets no request."""
    assert scope["type"] == "lifespan"
    for name in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{name}.complete"})


@pytest.fixture
def ignored() -> Iterator[None]:
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("a signal of POSIX")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("ignored")
def test_server_under_nohup_outlives_its_terminal() -> None:
    events: list[str] = []

    def close_terminal() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.3)
        events.append("terminate")
        os.kill(os.getpid(), signal.SIGTERM)

    with bind("127.0.0.1", 0).socket as bound:
        run_server(
            answer,
            Listener(bound, ""),
            on_ready=lambda: threading.Thread(target=close_terminal).start(),
            on_drain=lambda: events.append("drain"),
        )
    assert events == ["terminate", "drain"]


@pytest.mark.parametrize("behind_proxy", [False, True])
def test_home_folder_is_expanded_and_only_a_proxy_names_the_client(
    behind_proxy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("EYEVSAI_TOKENS", "predict " + "t" * 30)
    certificate, key = write_certificate(tmp_path)
    options: dict[str, Any] = {}
    loaded: list[Any] = []
    monkeypatch.setattr(assembly, "run_server", lambda *_, **values: options.update(values))
    monkeypatch.setattr(
        ssl.SSLContext, "load_cert_chain", lambda _, cert, key, **__: loaded.append((cert, key))
    )
    server = assembly.ModelServer(
        assembly.ServerConfig(
            ServeSettings(name="stripes/1", port=0, device="cpu", state_dir=str(tmp_path)),
            SecuritySettings(tls_cert="~/cert.pem", tls_key="~/key.pem", behind_proxy=behind_proxy),
            log=LogWriterSettings(log=OFF),
        )
    )
    loaded.clear()  # the check at the start
    with server.bind().socket:
        server.run(lambda: None)
    assert loaded == [(certificate, key)]
    assert options["proxy_headers"] is behind_proxy


def make_server(folder: Path, name: str, **values: Any) -> assembly.ModelServer:
    settings = ServeSettings(name=name, device="cpu", state_dir=str(folder), **values)
    return assembly.ModelServer(assembly.ServerConfig(settings, log=LogWriterSettings(log=OFF)))


def test_metrics_port_that_is_the_port_of_the_server_is_refused(tmp_path: Path) -> None:
    port = find_port()
    server = make_server(tmp_path, "stripes/1", port=port, metrics_port=port)
    with server.bind().socket, pytest.raises(UserError, match="is the port of the server"):
        server.run(lambda: None)


def test_empty_secret_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "")
    assert make_server(tmp_path, "stripes").alias == "production"
