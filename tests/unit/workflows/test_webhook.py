"""The webhook for alerts, against a real HTTP server."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from eyevsai.core.errors import JobError, UserError
from eyevsai.workflows.monitor import webhook
from eyevsai.workflows.monitor.settings import AlertSettings, monitor_command
from eyevsai.workflows.monitor.webhook import (
    check_webhook,
    is_forbidden,
    read_webhook_secret,
    send_webhook,
    sign,
)
from tests.receiver import SECRET, Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as received:
        yield received


def test_signed_request(receiver: Receiver) -> None:
    send_webhook(receiver.url, SECRET, {"model": "a", "alerts": []})
    ((path, signature, body),) = receiver.requests
    assert path == "/hook?team=a"
    assert json.loads(body) == {"model": "a", "alerts": []}
    time, _, digest = signature.removeprefix("t=").partition(",v1=")
    expected = hmac.new(SECRET.encode(), f"{time}.".encode() + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(digest, expected)
    assert sign(SECRET, body, int(time)) == signature
    assert sign(SECRET, body + b" ", int(time)) != signature


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.code, receiver.location = 307, receiver.url
    with pytest.raises(JobError, match=r"code 307\. Redirects are not followed"):
        send_webhook(receiver.url, SECRET, {})
    assert len(receiver.requests) == 1
    receiver.code = 500
    with pytest.raises(JobError, match=r"code 500\. Check its log"):
        send_webhook(receiver.url, SECRET, {})


def test_unreachable_receiver(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.5)
    with pytest.raises(JobError, match="unreachable"):
        send_webhook("http://127.0.0.1:1/", SECRET, {})
    for host in ("no-such-host.invalid", f"{'a' * 64}.invalid"):  # a part has 63 characters at most
        with pytest.raises(JobError, match="unreachable"):
            send_webhook(f"http://{host}/", SECRET, {})


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://0.0.0.0/", "http://224.0.0.1/"],
)
def test_addresses_to_which_nothing_is_sent(url: str) -> None:
    with pytest.raises(UserError, match="nothing is sent"):
        send_webhook(url, SECRET, {})


def test_mapped_addresses_are_forbidden_too() -> None:
    assert is_forbidden("::ffff:169.254.169.254")
    assert is_forbidden("2002:a9fe:a9fe::1")  # 6to4 of 169.254.169.254
    assert not is_forbidden("::ffff:10.0.0.1")
    assert not is_forbidden("127.0.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://",
        "https://u:p@h/",
        "gopher://h/",
        "h",
        "http://h:0/",
        "http://h/ü",  # the request line is ASCII
    ],
)
def test_invalid_urls(url: str) -> None:
    with pytest.raises(UserError, match="not a valid URL"):
        check_webhook(url)


def test_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="requires a secret"):
        read_webhook_secret(AlertSettings())
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    settings = AlertSettings(webhook_secret_file=str(tmp_path / "secret"))
    assert read_webhook_secret(settings) == SECRET
    monkeypatch.setenv("EYEVSAI_WEBHOOK_SECRET", "another secret of 16")
    assert read_webhook_secret(settings) == "another secret of 16"
    monkeypatch.setenv("EYEVSAI_WEBHOOK_SECRET", "short")
    with pytest.raises(UserError, match="at least 16"):
        read_webhook_secret(settings)


def test_command_of_the_entry_point() -> None:
    assert monitor_command(["--name", "a", "--since", "1d"]) == [
        *("monitor", "live", "a", "--since", "1d"),
    ]
    assert monitor_command(["--model=a/1", "--window", "50", "--data", "x"]) == [
        *("monitor", "drift", "a/1", "x", "--window", "50"),
    ]
    for words in ([], ["--model", "a/1"], ["--name", "a", "--model", "a/1", "--data", "x"]):
        with pytest.raises(UserError, match="Set name=NAME"):
            monitor_command(words)


def test_invalid_url_is_found_before_the_first_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEVSAI_WEBHOOK_SECRET", SECRET)
    with pytest.raises(UserError, match="--webhook is not a valid URL"):
        read_webhook_secret(AlertSettings(webhook="ftp://alerts.example.org"))
