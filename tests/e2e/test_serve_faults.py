"""Servers that are killed or ended under load, with a log that is reachable or not."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from eyevsai.inference_log.settings import SECRET
from eyevsai.serving.http.auth import TOKENS_VARIABLE
from tests.e2e.test_serve import (  # noqa: F401, fixtures
    PNG,
    Process,
    image,
    read_status,
    send_request,
    served,
    served_store,
    wait_until,
    workplace,
)

KILLS, CLIENTS = 20, 4
LOST_S = 1.0  # of answers at most, by a SIGKILL
READY_S = 30.0  # after which a test fails; 8 s are reached on a quiet machine
END_S = 10.0
TOKEN = "a-token-of-the-tests-0123456789"


class Load:
    """Clients that send an image until the server ends, and note when they got which answer."""

    def __init__(self, url: str, content: bytes) -> None:
        self.received: dict[str, float] = {}
        self.statuses: list[int] = []
        self._url, self._content = url, content
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the clients have noticed the end of the server."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _send(self) -> None:
        session = requests.Session()
        while True:
            try:
                answer = session.post(f"{self._url}/v1/predict", data=self._content, headers=PNG)
                values = answer.json()
            except requests.RequestException:
                return
            self.statuses.append(answer.status_code)
            if answer.status_code == 200:
                self.received[values["id"]] = time.time()


def read_log() -> dict[str, tuple[Any, ...]]:
    """Return the rows of the log by id, after a check of the file."""
    database = Path(os.environ["EYEVSAI_STATE"]) / "inference_log.db"
    columns = "id, status, label, probability, probabilities, statistics, model_ms, sha256, bytes"
    with closing(sqlite3.connect(database)) as log:
        assert log.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = log.execute(f"SELECT {columns} FROM answers").fetchall()
    by_id = {row[0]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


@pytest.mark.requirement(26)
@pytest.mark.processes("servers that are killed")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [2, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_killed_server_loses_less_than_a_second_and_starts_again(
    kills: int,
    workplace: Path,  # noqa: F811
    image: bytes,  # noqa: F811
    record_property: Callable[[str, object], None],
) -> None:
    received: dict[str, float] = {}
    due: set[str] = set()
    lost_s, ready_s, survived = list[float](), list[float](), 0
    for number in range(kills):
        started = time.monotonic()
        with served(workplace) as server:
            url = server.url
            wait_until(lambda: requests.get(f"{url}/ready").status_code == 200)  # noqa: B023
            ready_s.append(time.monotonic() - started)
            load = Load(url, image)
            wait_until(lambda: len(load.received) > 20)  # noqa: B023
            time.sleep(1.2 + 0.13 * number)
            # before the signal: what a client gets later is none of its answers
            killed_at = time.time()
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
            load.join()
        assert set(load.statuses) == {200}
        assert len(load.statuses) == len(load.received)
        assert not received.keys() & load.received.keys()
        received |= load.received
        due |= {key for key, at in load.received.items() if at < killed_at - LOST_S}
        rows = read_log()
        missing = [at for key, at in load.received.items() if key not in rows]
        lost_s.append(killed_at - min(missing, default=killed_at))
        survived += lost_s[-1] <= LOST_S and ready_s[-1] <= READY_S
    rows = read_log()
    record_property("tried", kills)
    record_property("survived", survived)
    print(
        f"{len(received)} answers, {len(received.keys() - rows.keys())} lost, at most the last "
        f"{max(lost_s):.2f} s; ready after {min(ready_s):.1f} to {max(ready_s):.1f} s"
    )
    assert len(due) > 20 * kills
    assert due <= rows.keys()
    # a client may not have received what the log has
    assert len(rows.keys() - received.keys()) <= kills * CLIENTS
    for row in rows.values():
        assert row[1] == "ok"
        assert None not in row
        assert (len(row[4]), len(row[5])) == (2 * 3, 4 * 6)
    assert max(ready_s) < READY_S


@pytest.mark.processes("a server that is ended under load")
def test_ended_server_answers_and_logs_what_is_in_flight(
    workplace: Path,  # noqa: F811
    image: bytes,  # noqa: F811
) -> None:
    with served(workplace, "--queue", "200") as server:
        url = server.url
        load = Load(url, image)
        wait_until(lambda: len(load.received) > 50)
        in_flight = [send_request(url, image) for _ in range(50)]
        time.sleep(0.3)  # all are accepted
        assert server.stop() == 0, server.text
        load.join()
        assert set(load.statuses) == {200}
        assert [read_status(connection) for connection in in_flight] == [200] * 50
    rows = read_log()
    assert load.received.keys() <= rows.keys()
    assert len(rows) >= len(load.received) + 50
    assert "lost" not in server.text
    assert "Traceback" not in server.text


@pytest.mark.processes("a server that is ended while its log is unreachable")
def test_unreachable_log_does_not_delay_the_end_of_a_server(
    workplace: Path,  # noqa: F811
    image: bytes,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SECRET, "a secret of this test")
    monkeypatch.setenv(TOKENS_VARIABLE, f"predict {TOKEN}")
    headers = PNG | {"Authorization": f"Bearer {TOKEN}"}
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which accepts, and never answers
        log = f"postgresql://anna@127.0.0.1:{silent.getsockname()[1]}/log"
        with served(workplace, "--log", log) as server:
            url = server.url
            assert "--header 'Authorization: Bearer TOKEN'" in server.text
            for _ in range(3):
                answer = requests.post(f"{url}/v1/predict", data=image, headers=headers)
                assert answer.status_code == 200
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as slow:
                head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 999\r\n"
                slow.sendall(f"{head}Authorization: Bearer {TOKEN}\r\n\r\nx".encode())
                time.sleep(0.2)
                started = time.monotonic()
                assert server.stop() == 0, server.text
                assert time.monotonic() - started < END_S
                assert read_status(slow) == 503
    assert "records of the inference log were lost" in server.text
    assert "Traceback" not in server.text
