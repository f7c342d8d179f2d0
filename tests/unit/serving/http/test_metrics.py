"""Series of /metrics, and the server of `--metrics-port`."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from eyevsai.serving.http.access import HostPolicy
from eyevsai.serving.http.metrics import KEPT_VERSIONS, Metrics
from eyevsai.serving.http.metrics_server import MetricsServer
from eyevsai.serving.http.security_settings import SecuritySettings
from eyevsai.serving.http.service import PredictionService
from tests.unit.serving.http.conftest import Bench, make_version


def shown_versions(metrics: Metrics) -> set[int]:
    """Return the versions that have a series."""
    return {
        int(sample.labels["version"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if "version" in sample.labels
    }


def test_series_of_old_versions_are_dropped(image: bytes) -> None:
    bench = Bench(make_version(1))
    candidate = make_version(2)

    async def serve(service: PredictionService) -> None:
        bench.table.assign({"production": make_version(1), "candidate": candidate})
        await service.predict(image, version=2)
        for number in range(3, 30):
            bench.table.assign({"production": make_version(number), "candidate": candidate})
            await service.predict(image)
            await service.predict(image, version=number)  # a second arm

    bench.run(serve)
    shown = shown_versions(bench.metrics)
    assert {2, 29} <= shown  # that are loaded, however long ago
    # 28 was in use when 29 was loaded
    assert shown == {2, *range(28 - KEPT_VERSIONS, 30)}
    sizes = len(bench.metrics.render())
    labels = {"model": "stripes", "version": "2", "arm": "named", "code": "200"}
    assert bench.metric("eyevsai_requests_total", **labels) == 1
    # one that returns begins anew
    bench.table.assign({"production": make_version(1), "candidate": candidate})
    labels = {"model": "stripes", "version": "1", "arm": "production", "code": "200"}
    assert bench.metric("eyevsai_requests_total", **labels) == 0
    assert len(bench.metrics.render()) < 1.1 * sizes


@pytest.fixture
def port() -> Iterator[int]:
    policy = HostPolicy("127.0.0.1", SecuritySettings())
    server = MetricsServer(0, Bench(make_version(1)).metrics.registry, policy)
    yield server.port
    server.close()


def get(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_metrics_port_serves_metrics(port: int) -> None:
    for path in ("/metrics", "/metrics?x=1", "/"):
        status, text = get(port, path)
        assert (status, "eyevsai_version_info" in text) == (200, True)
    status, text = get(port, Accept="application/openmetrics-text; version=1.0.0")
    assert (status, text.endswith("# EOF\n")) == (200, True)
    assert get(port, method="POST")[0] == 501


@pytest.mark.parametrize(
    "headers", [{"Host": "rebound.example.org"}, {"Origin": "https://example.org"}]
)
def test_metrics_port_refuses_web_pages(port: int, headers: dict[str, str]) -> None:
    status, text = get(port, **headers)
    assert status == 403
    assert "eyevsai_version_info" not in text
    assert "example.org" in text


def test_silent_client_does_not_keep_others_from_metrics(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"GET /me")
        start = time.monotonic()
        assert get(port)[0] == 200
        assert time.monotonic() - start < 2


def test_client_that_closes_its_connection_leaves_no_traceback(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /me")
        time.sleep(0.1)
        # closed with a reset, as by a port scanner
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(2):
        assert get(port)[0] == 200
        time.sleep(0.1)
    assert "Traceback" not in capfd.readouterr().err
