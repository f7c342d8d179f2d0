from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.serving.http import auth
from eyevsai.serving.http.auth import Scope, TokenStore, parse_tokens, required_scope
from eyevsai.serving.http.errors import RequestError

# constant, since they are part of the ids of parametrized tests
FIRST, SECOND = "first-" + "k" * 32, "second-" + "q" * 32


def bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


def test_token_is_accepted_for_its_scopes_only() -> None:
    store = TokenStore(parse_tokens(f"# clients\npredict,feedback  {FIRST}  # shop\n", "file"))
    for scope in (Scope.PREDICT, Scope.FEEDBACK):
        assert store.authorize(bearer(FIRST), scope).allows(scope)
    with pytest.raises(RequestError) as error:
        store.authorize(bearer(FIRST), Scope.METRICS)
    assert (error.value.status, error.value.reason) == (403, "scope")


def test_admin_includes_all_scopes() -> None:
    store = TokenStore(parse_tokens(f"admin {FIRST}", "file"))
    assert all(store.authorize(bearer(FIRST), scope) for scope in Scope)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic " + FIRST.encode(),
        FIRST.encode(),
        bearer(FIRST[:-1]),
        bearer(FIRST + "x"),
        bearer(FIRST.swapcase()),
        bearer(SECOND),
        bearer(f"{FIRST} x"),
        bearer("\xff"),
    ],
)
def test_other_tokens_get_401_with_the_scheme(header: bytes | None) -> None:
    store = TokenStore(parse_tokens(f"predict {FIRST}", "file"))
    with pytest.raises(RequestError) as error:
        store.authorize(header, Scope.PREDICT)
    assert error.value.status == 401
    assert error.value.headers()["www-authenticate"].startswith("Bearer")
    assert FIRST not in error.value.message


def test_all_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    lines = "\n".join(f"predict {secrets.token_urlsafe(32)}" for _ in range(5))
    store = TokenStore(parse_tokens(f"predict {FIRST}\n{lines}", "file"))
    store.authorize(bearer(FIRST), Scope.PREDICT)
    assert len(compared) == 6  # the first one matched, and the others were compared all the same
    assert all(len(digest) == 32 for digest in compared)


def test_tokens_rotate_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CHECK_S", 0.0)
    path = tmp_path / "tokens"
    path.write_text(f"predict {FIRST}\n")
    store = TokenStore.load(str(path))
    path.write_text(f"predict {FIRST}\npredict {SECOND}\n")
    assert store.authenticate(bearer(FIRST))
    assert store.authenticate(bearer(SECOND))
    (tmp_path / "new").write_text(f"predict {SECOND}\n")
    (tmp_path / "new").replace(path)
    assert store.authenticate(bearer(FIRST)) is None
    assert store.authenticate(bearer(SECOND))


def test_broken_file_keeps_the_former_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auth, "CHECK_S", 0.0)
    path = tmp_path / "tokens"
    path.write_text(f"predict {FIRST}\n")
    store = TokenStore.load(str(path))
    path.write_text("predict\n")
    assert store.authenticate(bearer(FIRST))
    assert "former tokens stay valid" in caplog.text
    path.unlink()
    assert store.authenticate(bearer(FIRST))


def test_tokens_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not TokenStore.load(None)
    monkeypatch.setenv(auth.TOKENS_VARIABLE, f"predict {FIRST};metrics {SECOND}")
    store = TokenStore.load(None)
    assert store.authorize(bearer(SECOND), Scope.METRICS)
    assert store.authorize(bearer(FIRST), Scope.PREDICT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no token"),
        ("# nothing\n\n", "contains no token"),
        (FIRST, "line 1: write SCOPES TOKEN"),
        (f"\npredict {FIRST} {SECOND}", "line 2: write SCOPES TOKEN"),
        (f"write {FIRST}", "the scope 'write' does not exist"),
        (f"predict, {FIRST}", "the scope '' does not exist"),
        (f"{FIRST} predict", "the scope before the token does not exist"),
        ("predict short", "at least 20 characters"),
        (f"predict {FIRST}ä", "at least 20 characters"),
    ],
)
def test_wrong_lines_are_errors_without_the_token(text: str, message: str) -> None:
    with pytest.raises(UserError, match="file") as error:
        parse_tokens(text, "file")
    assert message in str(error.value)
    assert FIRST not in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_file_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokens").write_bytes(content)
    with pytest.raises(UserError, match="tokens"):
        TokenStore.load(str(tmp_path / "tokens"))


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_file_that_everybody_can_read_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"predict {FIRST}\n")
    path.chmod(0o600)
    TokenStore.load(str(path))
    assert not caplog.text
    path.chmod(0o644)
    TokenStore.load(str(path))
    assert "can be read by all users" in caplog.text


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/ping", None),
        ("/ready", None),
        ("/v2/health/ready", None),
        ("/v1/predict", Scope.PREDICT),
        ("/invocations", Scope.PREDICT),
        ("/v2", Scope.PREDICT),
        ("/v2/models/digits/infer", Scope.PREDICT),
        ("/v2/health/live/../../models", Scope.PREDICT),
        ("/v1/feedback", Scope.FEEDBACK),
        ("/metrics", Scope.METRICS),
        ("/v1/status", Scope.METRICS),
        ("/", Scope.ADMIN),
        ("/v2x", Scope.ADMIN),
        ("/ping/", Scope.ADMIN),
        ("//ping", Scope.ADMIN),
    ],
)
def test_every_route_but_probes_needs_a_scope(path: str, scope: Scope | None) -> None:
    assert required_scope(path) is scope
