from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from eyevsai.serving.http.guard import Guard
from eyevsai.serving.http.security_settings import LimitSettings, SecuritySettings

PREDICT, METRICS, ADMIN = "p" * 30, "m" * 30, "a" * 30


class Echo:
    """Application that returns the length of the body it received, and counts its requests."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.may_end: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.paths.append(scope["path"])
        body = await request.body()
        if self.may_end is not None:
            await self.may_end.wait()
        await Response(json.dumps(len(body)))(scope, receive, send)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"predict {PREDICT}\nmetrics {METRICS}\nadmin {ADMIN}\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def rejected() -> list[str]:
    return []


@pytest.fixture
def connect(echo: Echo, rejected: list[str]) -> Callable[..., TestClient]:
    def make(limits: Mapping[str, Any] | None = None, **security: Any) -> TestClient:
        guard = Guard(
            echo,
            security=SecuritySettings(**security),
            limits=LimitSettings(**(limits or {})),
            host="127.0.0.1",
            on_reject=rejected.append,
        )
        return TestClient(guard, "http://localhost:5080")

    return make


Connect = Callable[..., TestClient]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}],
)
def test_foreign_host_and_origin_get_403_on_loopback(
    connect: Connect, echo: Echo, rejected: list[str], method: str, headers: dict[str, str]
) -> None:
    response = connect().request(method, "/v1/predict", headers=headers)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    assert (echo.paths, rejected) == ([], ["host" if "Host" in headers else "origin"])


def test_page_of_the_server_itself_may_send_requests(connect: Connect) -> None:
    headers = {"Origin": "http://localhost:5080"}
    assert connect().post("/v1/predict", content=b"abc", headers=headers).json() == 3


@pytest.mark.parametrize("path", ["/v1/predict", "/invocations", "/v2/models/a/infer", "/metrics"])
def test_requests_without_a_token_get_401(
    connect: Connect, echo: Echo, tokens: str, path: str
) -> None:
    client = connect(token_file=tokens)
    for headers in ({}, bearer("x" * 30), {"Authorization": "Basic eDp4"}):
        response = client.post(path, content=b"abc", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        message = "message" if path == "/invocations" else "error"
        assert "Authorization: Bearer TOKEN" in response.json()[message]
    assert echo.paths == []


def test_scopes_are_separate(connect: Connect, tokens: str, rejected: list[str]) -> None:
    client = connect(token_file=tokens)
    allowed = {
        (token, path): client.get(path, headers=bearer(token)).status_code
        for token in (PREDICT, METRICS, ADMIN)
        for path in ("/v2", "/metrics", "/v1/feedback", "/other")
    }
    assert {pair for pair, status in allowed.items() if status == 200} == {
        (PREDICT, "/v2"),
        (METRICS, "/metrics"),
        *((ADMIN, path) for path in ("/v2", "/metrics", "/v1/feedback", "/other")),
    }
    assert set(rejected) == {"scope"}


def test_probes_need_no_token(connect: Connect, tokens: str) -> None:
    client = connect(token_file=tokens)
    for path in ("/ping", "/health", "/version", "/live", "/ready", "/v2/health/live"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "TOKEN"])
def test_token_in_the_url_gets_401(connect: Connect, tokens: str, name: str) -> None:
    client = connect(token_file=tokens)
    for headers in ({}, bearer(PREDICT)):
        response = client.post(f"/v1/predict?top_k=1&{name}={PREDICT}", headers=headers)
        assert response.status_code == 401
        assert "URLs are logged" in response.text
        assert PREDICT not in response.text


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "identity, gzip"])
def test_encoded_bodies_get_415(connect: Connect, echo: Echo, encoding: str) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    headers = {"Content-Encoding": encoding}
    response = connect().post("/v1/predict", content=bomb, headers=headers)
    assert (response.status_code, echo.paths) == (415, [])
    assert connect().post("/ping", headers={"Content-Encoding": "identity"}).status_code == 200


def test_body_beyond_the_limit_gets_413(connect: Connect, echo: Echo, rejected: list[str]) -> None:
    client = connect({"max_body_mb": 0.001})
    assert client.post("/v1/predict", content=b"x" * 1000).json() == 1000
    chunks = (b"x" * 400 for _ in range(3))
    for content in (b"x" * 1001, chunks):
        response = client.post("/v1/predict", content=content)
        assert response.status_code == 413
        assert response.headers["connection"] == "close"
        assert "0.001 MB" in response.json()["error"]
    assert (len(echo.paths), rejected) == (1, ["body", "body"])


def test_rate_is_limited_per_token_and_for_feedback(
    connect: Connect, tokens: str, rejected: list[str]
) -> None:
    client = connect({"max_rate": 2, "feedback_rate": 1}, token_file=tokens)
    statuses = [client.get("/v2", headers=bearer(PREDICT)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert client.get("/v2", headers=bearer(ADMIN)).status_code == 200
    responses = [client.post("/v1/feedback", headers=bearer(ADMIN)) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 429]
    assert int(responses[1].headers["retry-after"]) >= 1
    assert client.get("/metrics", headers=bearer(METRICS)).status_code == 200
    assert rejected == ["rate", "rate"]


def scope_of(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
    }


def test_requests_beyond_those_in_flight_get_503(echo: Echo, rejected: list[str]) -> None:
    async def run() -> list[Any]:
        echo.may_end = asyncio.Event()
        guard = Guard(
            echo,
            security=SecuritySettings(),
            limits=LimitSettings(max_in_flight=2),
            host="127.0.0.1",
            on_reject=rejected.append,
        )

        async def send_request(path: str) -> Any:
            sent: list[Any] = []

            async def receive() -> Any:
                return {"type": "http.request", "body": b"x", "more_body": False}

            async def send(message: Any) -> None:
                sent.append(message)

            await guard(scope_of(path), receive, send)
            return sent[0]

        first = [asyncio.create_task(send_request("/v1/predict")) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await send_request("/v1/predict")
        probe = asyncio.create_task(send_request("/live"))
        await asyncio.sleep(0)
        echo.may_end.set()
        answers = [*await asyncio.gather(*first), await probe, await send_request("/v1/predict")]
        return [refused, *answers]

    refused, *answers = asyncio.run(run())
    assert refused["status"] == 503
    assert (b"retry-after", b"1") in refused["headers"]
    assert [answer["status"] for answer in answers] == [200, 200, 200, 200]
    assert rejected == ["busy"]


def test_request_that_fails_gives_its_place_back() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a fault of the application")

    guard = Guard(
        fail, security=SecuritySettings(), limits=LimitSettings(max_in_flight=1), host="127.0.0.1"
    )
    client = TestClient(guard, "http://localhost", raise_server_exceptions=False)
    for _ in range(3):
        assert client.post("/v1/predict", content=b"x").status_code == 500
    assert guard._in_flight == 0


def test_websockets_are_closed_and_the_lifespan_passes(echo: Echo) -> None:
    guard = Guard(echo, security=SecuritySettings(), limits=LimitSettings(), host="127.0.0.1")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(guard({"type": "websocket", "path": "/v1/predict"}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert echo.paths == []


def test_errors_are_json_for_every_client(connect: Connect) -> None:
    client = connect()
    headers = {"Origin": 'https://evil.example/"<script>\\'}
    assert "script" in client.post("/v1/predict", headers=headers).json()["error"]
    mlflow = client.post("/invocations", headers=headers).json()
    assert mlflow.keys() == {"error_code", "message"}
    assert mlflow["error_code"] == "PERMISSION_DENIED"


def test_bodies_of_probes_are_not_read(echo: Echo) -> None:
    """A client without a token could otherwise fill the memory that all bodies share."""
    guard = Guard(echo, security=SecuritySettings(), limits=LimitSettings(), host="127.0.0.1")

    async def run(path: str) -> float:
        async def receive() -> Any:
            await asyncio.sleep(10)

        async def send(message: Any) -> None:
            return None

        async def respond(scope: Any, receive: Any, send: Any) -> None:
            await Response(status_code=405)(scope, receive, send)

        guard._app = respond
        await asyncio.wait_for(guard(scope_of(path), receive, send), 1)
        return guard._bodies._budget.used

    for path in ("/live", "/ping", "/metrics", "/other"):
        assert asyncio.run(run(path)) == 0
