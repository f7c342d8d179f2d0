"""The Python client against servers on a socket."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

import eyevsai
from eyevsai.core.errors import JobError, UserError
from eyevsai.serving.client import Client
from eyevsai.serving.http.deadlines import make_http_protocol
from eyevsai.serving.http.security_settings import LimitSettings
from tests.unit.serving.http.live import serving, write_certificate

ANSWER = {
    "id": "0198",
    "model": "digits",
    "version": 7,
    "arm": "production",
    "label": "7",
    "probability": 0.75,
    "probabilities": {"7": 0.75, "9": 0.25},
}


class Server:
    """Application that records requests and answers with the given statuses first, then 200."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        self.statuses = list(statuses)
        self.headers = headers or {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self.requests.append((str(request.url.path), dict(request.headers), body))
        status = self.statuses.pop(0) if self.statuses else 200
        content = ANSWER if status == 200 else {"error": f"a reason for {status}"}
        if request.url.path == "/v1/feedback" and status == 200:
            content, status = {"accepted": 1}, 202
        response = Response(json.dumps(content), status, headers=self.headers)
        await response(scope, receive, send)


def test_prediction_and_feedback(tmp_path: Path) -> None:
    server = Server()
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    with (
        serving(server, lifespan="off") as port,
        eyevsai.Client(f"http://127.0.0.1:{port}/", "t" * 20) as client,
    ):
        images = [path, str(path), path.read_bytes(), pixels]
        predictions = [client.predict(image, key="anna", top_k=2) for image in images]
        predictions[0].feedback("7", source="person:ann")
    first = predictions[0]
    assert predictions == [first] * 4
    assert (first.label, first.probability, first.version) == ("7", 0.75, 7)
    assert (first.id, first.arm, first.top(1)) == ("0198", "production", [("7", 0.75)])
    sent = [np.asarray(Image.open(io.BytesIO(body))) for _, _, body in server.requests[:4]]
    assert all(np.array_equal(image, pixels) for image in sent)
    route, headers, body = server.requests[4]
    assert (route, json.loads(body)) == (
        "/v1/feedback",
        {"id": "0198", "label": "7", "source": "person:ann"},
    )
    assert headers["authorization"] == "Bearer " + "t" * 20
    assert server.requests[0][1]["eyevsai-key"] == "anna"


@pytest.mark.parametrize(
    ("status", "media_type"),
    [(503, "application/json"), (429, "application/json"), (502, "text/html"), (500, "text/plain")],
)
def test_busy_server_and_proxy_without_a_server_are_asked_again(
    status: int, media_type: str
) -> None:
    server = Server(status, status, headers={"Content-Type": media_type})
    with serving(server, lifespan="off") as port, Client(f"http://127.0.0.1:{port}") as client:
        assert client.predict(b"image").label == "7"
        client.predict(b"image")
    assert len(server.requests) == 4
    assert {body for _, _, body in server.requests} == {b"image"}
    # the same for all attempts, so that the answers have one row in the log
    names = [headers["eyevsai-request"] for _, headers, _ in server.requests]
    assert len(set(names[:3])) == 1
    assert names[3] != names[0]


def test_failure_of_the_model_is_not_asked_again() -> None:
    server = Server(500, headers={"Content-Type": "application/json"})
    with serving(server, lifespan="off") as port:
        client = Client(f"http://127.0.0.1:{port}")
        with pytest.raises(JobError, match="a reason for 500"):
            client.predict(b"image")
    assert len(server.requests) == 1


def test_pause_is_that_of_the_server() -> None:
    server = Server(503, headers={"Retry-After": "1"})
    start = time.monotonic()
    with serving(server, lifespan="off") as port, Client(f"http://127.0.0.1:{port}") as client:
        client.predict(b"image")
    assert time.monotonic() - start >= 1


def test_server_that_stays_busy_is_an_error() -> None:
    server = Server(*[503] * 9)
    with serving(server, lifespan="off") as port:
        client = Client(f"http://127.0.0.1:{port}", retries=2)
        with pytest.raises(JobError, match="a reason for 503"):
            client.predict(b"image")
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422])
def test_refused_requests_are_not_sent_again(status: int) -> None:
    server = Server(status)
    with serving(server, lifespan="off") as port, Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(UserError, match=f"a reason for {status}"):
            client.predict(b"image")
        assert len(server.requests) == 1


def test_redirects_are_not_followed() -> None:
    server = Server(307, headers={"Location": "http://127.0.0.1:1/"})
    with serving(server, lifespan="off") as port, Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(JobError, match="status 307"):
            client.predict(b"image")
        assert len(server.requests) == 1


def test_server_that_starts_late_is_found() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    server, found = Server(), list[str]()

    def ask() -> None:
        found.append(Client(f"http://127.0.0.1:{port}").predict(b"image").label)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    with serving(server, port=port, lifespan="off"):
        thread.join(timeout=20)
    assert found == ["7"]


def test_lost_connection_is_tried_again() -> None:
    """A server that closes the first connection without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            for attempt in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    if attempt:
                        body = json.dumps(ANSWER).encode()
                        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                        connection.sendall(head.encode() + body)

        thread = threading.Thread(target=answer)
        thread.start()
        assert Client(f"http://127.0.0.1:{port}").predict(b"image").label == "7"
        thread.join(timeout=10)


def test_unreachable_server_is_an_error() -> None:
    client = Client("http://127.0.0.1:1", retries=1)
    with pytest.raises(JobError, match="is unreachable"):
        client.predict(b"image")


@pytest.mark.parametrize(
    "url", ["localhost:5080", "ftp://localhost", "http://", "http://u:p@localhost", "/x"]
)
def test_invalid_urls_are_errors(url: str) -> None:
    with pytest.raises(UserError, match="URL"):
        Client(url)


def test_token_is_not_sent_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    Client("http://example.org")
    Client("https://example.org", "t" * 20)
    for host in ("localhost", "127.0.0.1", "[::1]"):
        Client(f"http://{host}:5080", "t" * 20)
    monkeypatch.setenv("EYEVSAI_TOKEN", "t" * 20)
    with pytest.raises(UserError, match="unencrypted"):
        Client("http://example.org")


def test_logins_of_netrc_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = Server()
    with serving(server, lifespan="off") as port, Client(f"http://127.0.0.1:{port}") as client:
        client.predict(b"image")
    assert "authorization" not in server.requests[0][1]


def test_missing_image_and_wrong_source_are_errors(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:1")
    with pytest.raises(UserError, match="There is no image file"):
        client.predict(tmp_path / "missing.png")
    with pytest.raises(UserError, match="H,W,3 uint8"):
        client.predict(np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match="source 'me' is not valid"):
        client.send_feedback("0198", "7", source="me")


def test_certificate_is_verified(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    server = Server()
    options = {"ssl_certfile": str(cert), "ssl_keyfile": str(key), "lifespan": "off"}
    protocol = make_http_protocol(LimitSettings())
    with serving(server, http=protocol, **options) as port:
        url = f"https://127.0.0.1:{port}"
        with Client(url, "t" * 20, ca_file=cert) as client:
            assert client.predict(b"image").label == "7"
        with (
            Client(url, "t" * 20, retries=1) as client,
            pytest.raises(JobError, match="not trusted"),
        ):
            client.predict(b"image")
    assert len(server.requests) == 1


def test_key_is_sent_in_utf_8() -> None:
    server = Server()
    with serving(server) as port, Client(f"http://127.0.0.1:{port}") as client:
        client.predict(b"image", key="café-日本")
        with pytest.raises(UserError, match="control characters"):
            client.predict(b"image", key="a\r\nHost: evil")
    (request,) = server.requests
    assert request[1]["eyevsai-key"].encode("latin-1").decode() == "café-日本"


@pytest.mark.parametrize("content", ["<html></html>", "3"])
def test_another_server_is_an_error(content: str) -> None:
    async def respond(scope: Any, receive: Any, send: Any) -> None:
        await Response(content)(scope, receive, send)

    with (
        serving(respond, lifespan="off") as port,
        Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(JobError, match="not that of eyevsai serve"),
    ):
        client.predict(b"image")


def test_token_with_wrong_characters_is_an_error_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    monkeypatch.setenv("EYEVSAI_TOKEN", "a-secret-token-of-20-characters\n")  # read from a file
    with serving(server) as port, Client(f"http://127.0.0.1:{port}") as client:
        client.predict(b"image")
    assert server.requests[0][1]["authorization"] == "Bearer a-secret-token-of-20-characters"
    with pytest.raises(UserError, match="token") as error:
        Client("http://127.0.0.1:1", token="a-secret\nToken")
    assert "secret" not in str(error.value)
