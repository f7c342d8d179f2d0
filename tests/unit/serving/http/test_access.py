from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.serving.http.access import HostPolicy, check_exposure, is_exposed, is_loopback
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.security_settings import SecuritySettings
from tests.unit.serving.http.live import write_certificate

TOKEN = "x" * 30


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"predict {TOKEN}\n")
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, SecuritySettings())


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.2", "example.org", "127.0.0.1.example.org", "localhos"]
)
def test_server_without_a_token_does_not_start_beyond_loopback(host: str) -> None:
    assert is_exposed(host, SecuritySettings())
    with pytest.raises(UserError, match="no token is set"):
        check_exposure(host, SecuritySettings(behind_proxy=True))


def test_server_without_tls_does_not_start_beyond_loopback(token_file: str) -> None:
    with pytest.raises(UserError, match=r"unencrypted.*--tls-cert"):
        check_exposure("0.0.0.0", SecuritySettings(token_file=token_file))
    check_exposure("0.0.0.0", SecuritySettings(token_file=token_file, behind_proxy=True))


def test_proxy_needs_a_token_on_loopback_too(token_file: str) -> None:
    with pytest.raises(UserError, match="no token is set"):
        check_exposure("127.0.0.1", SecuritySettings(behind_proxy=True))
    check_exposure("127.0.0.1", SecuritySettings(behind_proxy=True, token_file=token_file))


def test_certificate_and_key_belong_together(token_file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="require each other"):
        check_exposure("127.0.0.1", SecuritySettings(tls_cert="cert.pem"))
    missing = SecuritySettings(
        token_file=token_file, tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key")
    )
    with pytest.raises(UserError, match=r"Cannot read .*cert"):
        check_exposure("0.0.0.0", missing)
    cert, key = write_certificate(tmp_path)
    check_exposure("0.0.0.0", replace(missing, tls_cert=str(cert), tls_key=str(key)))
    for pair in ((cert, cert), (key, key), (tmp_path / "tokens", key)):
        with pytest.raises(UserError, match="cannot be used"):
            check_exposure("0.0.0.0", replace(missing, tls_cert=str(pair[0]), tls_key=str(pair[1])))
    cert, key = write_certificate(tmp_path, b"password")
    with pytest.raises(UserError, match="without a password"):
        check_exposure("0.0.0.0", replace(missing, tls_cert=str(cert), tls_key=str(key)))


@pytest.mark.parametrize("names", ["*", "https://a.org", "a.org/x", "a b", "*.a.org"])
def test_allowed_hosts_are_names(names: str) -> None:
    with pytest.raises(UserError, match="is not a host name"):
        check_exposure("127.0.0.1", SecuritySettings(allowed_hosts=names))


def status(policy: HostPolicy, host: str, *origins: str) -> int:
    try:
        policy.check([host.encode("latin-1")], [origin.encode() for origin in origins])
    except RequestError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:5080", 200),
        ("localhost", 200),
        ("LocalHost:99", 200),
        ("localhost.:5080", 200),
        ("[::1]:5080", 200),
        ("evil.example", 403),
        ("localhost.evil.example:5080", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1:5080", 403),
        ("localhost@evil.example", 403),
        ("localhost:x", 403),
        ("localhost/x", 403),
        ("", 403),
        ("\xff", 403),
    ],
)
def test_hosts_on_loopback(host: str, expected: int) -> None:
    assert status(HostPolicy("127.0.0.1", SecuritySettings()), host) == expected


def test_hosts_of_an_exposed_server() -> None:
    policy = HostPolicy("0.0.0.0", SecuritySettings(allowed_hosts="api.example, b.example:8443"))
    assert status(policy, "10.0.0.1:5080") == 200  # an address is no result of DNS rebinding
    assert status(policy, socket.gethostname().lower()) == 200
    assert status(policy, "api.example") == 200
    assert status(policy, "b.example") == 200
    assert status(policy, "c.example") == 403


def test_missing_and_repeated_hosts_are_refused() -> None:
    policy = HostPolicy("127.0.0.1", SecuritySettings())
    for hosts in ([], [b"localhost", b"localhost"]):
        with pytest.raises(RequestError, match="Exactly one header Host"):
            policy.check(hosts, [])


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:5080", 200),
        ("https://localhost:5080", 200),
        ("https://page.example", 200),
        ("http://localhost:3000", 403),
        ("http://127.0.0.1:5080", 403),
        ("https://evil.example", 403),
        ("https://page.example.evil.example", 403),
        ("https://page.example:1", 403),
        ("null", 403),
        ("file://localhost:5080", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_origins(origin: str, expected: int) -> None:
    policy = HostPolicy("127.0.0.1", SecuritySettings(allowed_hosts="page.example"))
    assert status(policy, "localhost:5080", origin) == expected


def test_each_of_several_origins_is_checked() -> None:
    policy = HostPolicy("127.0.0.1", SecuritySettings())
    assert status(policy, "localhost", "http://localhost", "http://evil.example") == 403
