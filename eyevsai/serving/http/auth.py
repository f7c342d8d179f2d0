"""Tokens of the server: their scopes, their file, and the routes that need them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from eyevsai.core.errors import UserError, read_error
from eyevsai.core.paths import expand
from eyevsai.serving.http.errors import INVOCATIONS, RequestError

log = logging.getLogger("eyevsai")

TOKENS_VARIABLE = "EYEVSAI_TOKENS"
MIN_TOKEN = 20  # characters: 15 random bytes in base64
MAX_FILE = 1_000_000  # bytes
CHECK_S = 1.0  # seconds between two checks whether the file changed
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750
BEARER = re.compile(rb"bearer +([^ ]+) *", re.IGNORECASE)
# query parameters in which clients of other servers send tokens
IN_URL = frozenset({"token", "access_token", "api_key", "apikey", "authorization"})
MAKE_TOKEN = "python -c \"import secrets; print('predict', secrets.token_urlsafe(32))\""


class Scope(StrEnum):
    """Right of a token. `admin` includes the others."""

    PREDICT = "predict"
    FEEDBACK = "feedback"
    METRICS = "metrics"
    ADMIN = "admin"


# Probes of load balancers, which have no tokens, and the OpenAPI page, which exists on loopback
# only. They contain no data of the model.
PROBES = ("/ping", "/health", "/version", "/live", "/ready", "/v2/health/live", "/v2/health/ready")
OPEN_ROUTES = frozenset({*PROBES, "/docs", "/openapi.json"})
PREDICT_ROUTES = (INVOCATIONS, "/v1/predict", "/v2")
SCOPES = {"/v1/feedback": Scope.FEEDBACK, "/metrics": Scope.METRICS, "/v1/status": Scope.METRICS}


def required_scope(path: str) -> Scope | None:
    """Return the scope that a route needs; None for a probe. Unknown routes need `admin`."""
    if path in OPEN_ROUTES:
        return None
    if path in SCOPES:
        return SCOPES[path]
    if any(path == route or path.startswith(f"{route}/") for route in PREDICT_ROUTES):
        return Scope.PREDICT
    return Scope.ADMIN


@dataclass(frozen=True)
class Token:
    """A token by its SHA-256, with its scopes. `id` identifies it in limits, not in logs."""

    digest: bytes
    scopes: frozenset[Scope]

    @property
    def id(self) -> str:
        """Return a short name that does not reveal the token."""
        return self.digest[:8].hex()

    def allows(self, scope: Scope) -> bool:
        """Return True if the token has a scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class TokenStore:
    """Valid tokens, from a file that is read again when it changes, or from the environment.

    Two tokens with the same scope are valid at the same time, so that clients can change from one
    to the other.
    """

    def __init__(self, tokens: tuple[Token, ...], path: Path | None = None) -> None:
        self._tokens = tokens
        self._path = path
        self._state = _file_state(path)
        self._checked = time.monotonic()

    @classmethod
    def load(cls, token_file: str | None) -> TokenStore:
        """Return the tokens of a file, or of EYEVSAI_TOKENS; without either, there are none.

        Raises:
            UserError: the file cannot be read, or a line is not `SCOPES TOKEN`.
        """
        if token_file is None:
            text = os.environ.get(TOKENS_VARIABLE, "")
            return cls(parse_tokens(text.replace(";", "\n"), TOKENS_VARIABLE) if text else ())
        path = expand(token_file)
        return cls(_read_tokens(path), path)

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def authenticate(self, authorization: bytes | None) -> Token | None:
        """Return the token of an Authorization header; None if it is missing or not valid.

        The time does not depend on which token is compared, nor on where two tokens differ.
        """
        self._reload()
        match = BEARER.fullmatch(authorization or b"")
        digest = hashlib.sha256(match[1] if match else b"").digest()
        valid = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                valid = token
        return valid

    def authorize(self, authorization: bytes | None, scope: Scope) -> Token:
        """Return the token of an Authorization header if it has a scope.

        Raises:
            RequestError: the token is missing or not valid (401), or lacks the scope (403).
        """
        token = self.authenticate(authorization)
        if token is None:
            reason = "The token is not valid." if authorization else "A token is required."
            raise RequestError(
                401, f"{reason} Send the header Authorization: Bearer TOKEN.", reason="token"
            )
        if not token.allows(scope):
            raise RequestError(403, f"The token lacks the scope {scope}.", reason="scope")
        return token

    def _reload(self) -> None:
        """Read a changed file; the former tokens stay valid if it cannot be read."""
        if self._path is None or time.monotonic() - self._checked < CHECK_S:
            return
        self._checked = time.monotonic()
        state = _file_state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._tokens = _read_tokens(self._path)
        except UserError as error:
            log.error("The former tokens stay valid: %s", error)
        else:
            log.info("Read %d tokens from %s", len(self._tokens), self._path)


def parse_tokens(text: str, source: str) -> tuple[Token, ...]:
    """Return the tokens of a text with lines `SCOPES TOKEN`; `#` begins a comment.

    Args:
        text: the lines.
        source: name of the file or variable for messages, which never contain a token.

    Raises:
        UserError: a line has another form, an unknown scope or a short token, or there is no line.
    """
    tokens = tuple(_parse_lines(text, source))
    if not tokens:
        raise UserError(f"{source} contains no token. Add a line, made by: {MAKE_TOKEN}")
    return tokens


def _parse_lines(text: str, source: str) -> Iterator[Token]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise UserError(f"{source}, line {number}: write SCOPES TOKEN, such as: predict TOKEN.")
        unknown = sorted(set(words[0].split(",")) - set(Scope))
        if unknown:
            # a long word can be a token before its scopes
            shown = f"{unknown[0]!r} " if len(unknown[0]) < MIN_TOKEN else "before the token "
            raise UserError(
                f"{source}, line {number}: the scope {shown}does not exist. Use "
                f"{', '.join(Scope)}, separated by commas."
            )
        if len(words[1]) < MIN_TOKEN or not TOKEN.fullmatch(words[1]):
            raise UserError(
                f"{source}, line {number}: a token has at least {MIN_TOKEN} characters out of "
                f"A-Z a-z 0-9 . _ ~ + / = -. Make one with: {MAKE_TOKEN}"
            )
        scopes = frozenset(map(Scope, words[0].split(",")))
        yield Token(hashlib.sha256(words[1].encode()).digest(), scopes)


def reject_token_in_url(query: bytes) -> None:
    """Raise RequestError (401) if a query string has a parameter that is meant for a token.

    URLs are written to the logs of proxies and to the history of browsers.
    """
    for pair in query.split(b"&") if query else ():
        if pair.partition(b"=")[0].lower().decode("latin-1") in IN_URL:
            raise RequestError(
                401,
                "A token in the URL is not accepted, because URLs are logged. Send the header "
                "Authorization: Bearer TOKEN.",
                reason="token",
            )


def _read_tokens(path: Path) -> tuple[Token, ...]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE)
        mode = path.stat().st_mode
        text = content.decode()
    except OSError as error:
        raise read_error(path, error, "Create it, or omit --token-file.") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a file of tokens: it is not text in UTF-8.") from None
    if os.name == "posix" and mode & 0o004:
        log.warning("%s can be read by all users of this machine: chmod o-r %s", path, path)
    return parse_tokens(text, str(path))


def _file_state(path: Path | None) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or replaced; None if there is none."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None
