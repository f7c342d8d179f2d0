"""Answers of Ray's proxies in place of a lost replica, and the errors of replicas."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eyevsai.core.errors import JobError, UserError
from eyevsai.serving.http.assembly import ModelServer, ServerConfig
from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.http.settings import ServeSettings
from eyevsai.serving.ray import deployment
from eyevsai.serving.ray.proxy import UnansweredRequests, make_middleware
from eyevsai.serving.ray.replica import ReplicaContext, ReplicaStartError, _PageServer, find_error

HEAD = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"a", "more_body": True}
END = {"type": "http.response.body", "body": b"b"}


def run_proxy(messages: Sequence[dict[str, Any]], kind: str = "http") -> list[dict[str, Any]]:
    """Return what a client gets if a proxy sends `messages` and ends."""
    sent: list[dict[str, Any]] = []

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def keep(message: Any) -> None:
        sent.append(message)

    (middleware,) = make_middleware()
    assert middleware.cls is UnansweredRequests
    asyncio.run(UnansweredRequests(proxy)({"type": kind}, None, keep))
    return sent


@pytest.mark.parametrize("messages", [[HEAD, END], [HEAD, PART, END], [HEAD, PART]])
def test_responses_pass_unchanged(messages: list[dict[str, Any]]) -> None:
    assert run_proxy(messages) == messages


@pytest.mark.parametrize("messages", [[], [HEAD]])
def test_lost_replica_gives_503_with_the_time_of_a_retry(messages: list[dict[str, Any]]) -> None:
    head, body = run_proxy(messages)
    assert head["status"] == 503
    assert dict(head["headers"])[b"retry-after"] == b"1"
    assert "Send the request again" in json.loads(body["body"])["error"]


def test_other_protocols_are_left_alone() -> None:
    assert run_proxy([], "websocket") == []


@pytest.mark.parametrize("text", ["one line", 'a "quoted" name: C:\\new\\"x"', "two\nlines", "é"])
def test_reason_of_a_failed_start_is_found_in_a_traceback(text: str) -> None:
    error = ReplicaStartError(UserError(text))
    message = f"The deployment failed to start.\nTraceback ...\n  raise\n{error!r}\n{error}\nmore"
    assert find_error(f"Error:\n{error}\nSee the logs.") == text
    assert find_error(message) is not None
    assert find_error("RuntimeError: other") is None


def test_secrets_of_a_replica_are_not_part_of_its_description() -> None:
    assert "hidden" not in repr(ReplicaContext({"EYEVSAI_LOG_SECRET": "hidden"}, "."))


@pytest.mark.parametrize("message", ["", "\n"])
def test_replica_that_fails_without_a_reason_is_reported(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = deployment._State("DEPLOY_FAILED", message)
    monkeypatch.setattr(deployment, "_read_state", lambda _: state)
    monkeypatch.setattr(deployment, "POLL_S", 0.01)
    with pytest.raises(JobError, match=r"did not start.*Ray reports DEPLOY_FAILED"):
        deployment._wait("digits", deployment.Stop())


def test_metrics_port_of_a_replica_has_deadlines() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send(HEAD)
        await send(END)

    config = ServerConfig(
        ServeSettings(name="digits", metrics_port=0), limits=LimitSettings(header_timeout_s=0.3)
    )
    pages = _PageServer(cast(ModelServer, SimpleNamespace(make_app=lambda **_: answer)), config)
    host, port = pages.url.removeprefix("http://").removesuffix("/metrics").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(b"GET /li")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    finally:
        pages.close()
