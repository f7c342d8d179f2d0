"""Webhook for alerts: one signed POST to the operator's URL.

The receiver computes HMAC-SHA256 of `TIMESTAMP.BODY` with the shared secret, compares it with the
header in constant time, and rejects timestamps that are older than five minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from eyevsai.core.errors import JobError, UserError, read_error
from eyevsai.core.paths import expand
from eyevsai.workflows.monitor.settings import WEBHOOK_SECRET, AlertSettings

SIGNATURE = "Eyevsai-Signature"
TIMEOUT_S = 10.0
MIN_SECRET = 16  # characters


def read_webhook_secret(settings: AlertSettings) -> str:
    """Return the secret of the webhook's signature, from the environment or its file.

    The URL is checked, too: a mistake in it must not wait for the first alert.

    Raises:
        UserError: there is none, the file cannot be read, the secret is too short, or the URL is
            invalid.
    """
    if settings.webhook is not None:
        check_webhook(settings.webhook)
    secret = os.environ.get(WEBHOOK_SECRET, "")
    if not secret and settings.webhook_secret_file is not None:
        path = expand(settings.webhook_secret_file)
        try:
            secret = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise read_error(path, error, "Check --webhook-secret-file.") from error
    if len(secret) < MIN_SECRET:
        raise UserError(
            f"--webhook requires a secret of at least {MIN_SECRET} characters, with which alerts "
            f"are signed. Set {WEBHOOK_SECRET}, or --webhook-secret-file."
        )
    return secret


def check_webhook(url: str) -> SplitResult:
    """Return the parts of a webhook's URL.

    Raises:
        UserError: it is no http(s) URL in ASCII, or has a login or a fragment.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.username is not None or parts.fragment or not _is_plain(url):
        raise UserError(
            "--webhook is not a valid URL. Use http://HOST/PATH or https://HOST/PATH without a "
            "login; the receiver checks the signature instead."
        )
    return parts


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable()


def sign(secret: str, body: bytes, timestamp: int) -> str:
    """Return the value of the header `SIGNATURE`: `t=TIMESTAMP,v1=HEX`.

    Args:
        secret: shared secret.
        body: body of the request.
        timestamp: Unix time in seconds.
    """
    message = f"{timestamp}.".encode() + body
    digest = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def send_webhook(url: str, secret: str, content: Mapping[str, Any]) -> None:
    """POST JSON to a URL. Redirects are errors, and are not followed.

    The connection is made to the address that was checked, so that the name cannot lead elsewhere
    meanwhile.

    Args:
        url: URL of the operator.
        secret: secret of the signature.
        content: JSON values.

    Raises:
        UserError: the URL is invalid, or leads to a link-local address, such as the metadata
            service of a cloud.
        JobError: the receiver is unreachable, or did not answer with a code of 200 to 299.
    """
    parts = check_webhook(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    body = json.dumps(content, allow_nan=False).encode()
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "User-Agent": "eyevsai",
        SIGNATURE: sign(secret, body, int(time.time())),
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        address = _resolve(host, port)
        connection = _connect(parts.scheme, host, address, port)
        try:
            connection.request("POST", target, body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
    # UnicodeError: a part of the name is too long
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise JobError(
            f"The webhook at {host}:{port} is unreachable: {error}. Check --webhook."
        ) from error
    if not 200 <= status < 300:
        hint = "Redirects are not followed: use the final URL." if 300 <= status < 400 else ""
        raise JobError(
            f"The webhook at {host}:{port} answered with the code {status}. "
            f"{hint or 'Check its log.'}"
        )


def _resolve(host: str, port: int) -> str:
    """Return the address of a host; raise UserError if one of its addresses is not allowed."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(info[4][0]).partition("%")[0] for info in infos]
    for text in addresses:
        if is_forbidden(text):
            raise UserError(
                f"--webhook leads to {text}, a link-local, multicast or unspecified address, to "
                "which nothing is sent. Use another host."
            )
    return addresses[0]


def is_forbidden(text: str) -> bool:
    """Return True if nothing may be sent to an IP address, also to one mapped into IPv6."""
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return any(
        each.is_link_local or each.is_multicast or each.is_unspecified
        for each in (address, mapped)
        if each is not None
    )


class _TLSConnection(http.client.HTTPSConnection):
    """HTTPS connection to an address, whose certificate must be that of a host."""

    def __init__(self, host: str, address: str, port: int) -> None:
        super().__init__(address, port, timeout=TIMEOUT_S)
        self._server_name = host

    def connect(self) -> None:
        """Connect to the address, and verify the certificate of the host."""
        plain = socket.create_connection((self.host, self.port), TIMEOUT_S)
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(plain, server_hostname=self._server_name)


def _connect(scheme: str, host: str, address: str, port: int) -> http.client.HTTPConnection:
    if scheme == "https":
        return _TLSConnection(host, address, port)
    return http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
