"""Addresses and names under which the server can be reached, and pages that may use it."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from urllib.parse import urlsplit

from eyevsai.core.errors import UserError, read_error
from eyevsai.core.paths import expand
from eyevsai.serving.http.auth import TokenStore
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.security_settings import SecuritySettings

LOCALHOST = "localhost"
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
SHOWN = 80  # characters of a header in a message


def is_loopback(host: str) -> bool:
    """Return True for `localhost` and loopback addresses."""
    address = _parse_address(host)
    return host.lower() == LOCALHOST or (address is not None and address.is_loopback)


def is_exposed(host: str, settings: SecuritySettings) -> bool:
    """Return True if clients on other machines can reach the server, directly or by a proxy."""
    return settings.behind_proxy or not is_loopback(host)


def check_exposure(host: str, settings: SecuritySettings) -> None:
    """Check that a server that other machines can reach has tokens and TLS.

    Args:
        host: address on which the server listens.
        settings: tokens, TLS and proxy.

    Raises:
        UserError: a token, TLS or a file is missing, or a setting has no effect.
    """
    tokens = TokenStore.load(settings.token_file)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UserError("--tls-cert and --tls-key require each other. Set both, or omit both.")
    if settings.tls_cert is not None and settings.tls_key is not None:
        _check_certificate(settings.tls_cert, settings.tls_key)
    _split_hosts(settings.allowed_hosts)
    if not is_exposed(host, settings):
        return
    if not tokens:
        raise UserError(
            f"The server would answer anyone: --host {host} can be reached from other machines, "
            "but no token is set. Set --token-file or EYEVSAI_TOKENS, or use --host 127.0.0.1 "
            "without --behind-proxy."
        )
    if settings.tls_cert is None and not settings.behind_proxy:
        raise UserError(
            f"Tokens and images would be sent unencrypted to --host {host}. Set --tls-cert and "
            "--tls-key, or --behind-proxy if a proxy in front of the server ends TLS."
        )


class HostPolicy:
    """Names that the header Host may have, and origins whose pages may send requests.

    Any web page can send requests to a server on the user's machine. The browser names the page in
    Origin; a name that an attacker points to this machine (DNS rebinding) appears in Host.
    """

    def __init__(self, host: str, settings: SecuritySettings) -> None:
        self._allowed = _split_hosts(settings.allowed_hosts)
        self._names = {LOCALHOST, *map(_strip_port, self._allowed)}
        address = _parse_address(host)
        is_wildcard = not host or (address is not None and address.is_unspecified)
        # an address in Host is no result of DNS rebinding, which needs a name
        self._allows_addresses = not is_loopback(host)
        if is_wildcard:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        else:
            self._names.add(host.lower())

    def check(self, hosts: list[bytes], origins: list[bytes]) -> None:
        """Check the headers Host and Origin of a request.

        Raises:
            RequestError: a name or an origin is not allowed (403).
        """
        if len(hosts) != 1:
            raise RequestError(403, "Exactly one header Host is required.", reason="host")
        host = hosts[0].decode("latin-1").lower()
        if not HOST.fullmatch(host) or not self._is_known(_strip_port(host)):
            raise RequestError(
                403,
                f"The host {host[:SHOWN]!r} is not allowed. Use the name of the server, or start "
                "the server with --allowed-hosts.",
                reason="host",
            )
        for origin in origins:
            self._check_origin(origin.decode("latin-1").lower(), host)

    def _is_known(self, name: str) -> bool:
        if name.rstrip(".") in self._names:
            return True
        address = _parse_address(name)
        return address is not None and (address.is_loopback or self._allows_addresses)

    def _check_origin(self, origin: str, host: str) -> None:
        try:
            parts = urlsplit(origin)
        except ValueError:
            parts = urlsplit("")
        is_page = parts.scheme in ("http", "https") and bool(parts.netloc)
        if not is_page or (parts.netloc != host and parts.netloc not in self._allowed):
            raise RequestError(
                403,
                f"Pages of {origin[:SHOWN]!r} may not use this server. Send requests from a "
                "program, or from a page of the same host and port.",
                reason="origin",
            )


def _split_hosts(text: str | None) -> frozenset[str]:
    """Return the names of `--allowed-hosts` in lower case.

    Raises:
        UserError: one is not NAME or NAME:PORT.
    """
    names = [name.strip().lower() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if not HOST.fullmatch(name):
            raise UserError(
                f"--allowed-hosts {name!r} is not a host name. Use NAME or NAME:PORT, without a "
                "scheme and without wildcards."
            )
    return frozenset(names)


def _strip_port(host: str) -> str:
    match = HOST.fullmatch(host)
    return match[1] if match else host


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _check_certificate(cert: str, key: str) -> None:
    """Check that a certificate and its key can be read and belong together.

    Raises:
        UserError: they do not, or the key has a password.
    """
    for path in (cert, key):
        try:
            with expand(path).open("rb") as file:
                file.read(1)
        except OSError as error:
            raise read_error(path, error, "Check the path and its permissions.") from error
    try:
        # without the function, OpenSSL would ask for a password on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            expand(cert), expand(key), password=lambda: b""
        )
    except (ssl.SSLError, ValueError, OSError) as error:
        raise UserError(
            f"--tls-cert {cert} and --tls-key {key} cannot be used: {error}. Use a certificate in "
            "PEM and its key, without a password."
        ) from error
