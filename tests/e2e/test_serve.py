"""`eyevsai serve`: a version behind HTTP that follows the registry."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from eyevsai.cli.project import render_entry_points, render_mlproject
from eyevsai.core.errors import UserError
from eyevsai.registry.classes import hash_classes
from eyevsai.serving.http.answers import PRODUCTION
from eyevsai.serving.http.follower import Follower
from eyevsai.serving.http.last_good import LastGood
from eyevsai.serving.http.metrics import Metrics
from eyevsai.serving.http.registry_source import LoadOptions, RegistrySource
from eyevsai.serving.http.routing import ProductionRouter
from eyevsai.serving.http.versions import VersionTable
from eyevsai.serving.model_dir import EXPORT_FOLDER, fetch_model_dir
from tests.conftest import ROOT, SMALL, TINY, copy_trained, extend_trained, once, write_images

NAME = "stripes-deep_v1-standard"
PNG = {"Content-Type": "image/png"}
OTHER_CLASSES = 4  # number of the version with other classes


@pytest.fixture(scope="session")
def served_store(
    tmp_path_factory: pytest.TempPathFactory, trained_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of four versions; never write to it.

    Versions 1 and 2 have an ONNX export, 3 has none, and 4 has other classes. Version 1 has the
    alias `production`.
    """

    def build(folder: Path) -> None:
        run = extend_trained(trained_store, cache_dir, folder)
        images = str(folder / "data" / "stripes")
        run("train", "--data", images, *SMALL, "--epochs", "4", "--mixup", "0")
        run("train", "--data", images, *TINY)
        write_images(folder / "more" / "stripes", {"across": 12, "down": 12, "tall": 12})
        more = str(folder / "more" / "stripes")
        run("train", "--data", more, *TINY, "--class-change", "true")
        for number in (1, 2):
            run("export", f"{NAME}/{number}", "--format", "onnx", "--output", str(folder / "out"))
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        MlflowClient(tracking_uri=uri).set_registered_model_alias(NAME, PRODUCTION, "1")

    return once(tmp_path_factory, "served", build)


@pytest.fixture
def workplace(served_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_trained(served_store, tmp_path / "project", monkeypatch)


@pytest.fixture
def image(workplace: Path) -> bytes:
    return next((workplace / "data").rglob("*.png")).read_bytes()


def set_alias(number: int) -> None:
    MlflowClient().set_registered_model_alias(NAME, PRODUCTION, str(number))


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)


def rename_table(database: Path, before: str, after: str) -> None:
    """Rename a table of a SQLite file."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute(f"ALTER TABLE {before} RENAME TO {after}")


class Followed:
    """Follower of the alias `production` with its table."""

    def __init__(self, folder: Path, alias: str = PRODUCTION, *, consent: bool = False) -> None:
        self.table = VersionTable()
        self.metrics = Metrics(NAME, self.table)
        store = os.environ["MLFLOW_TRACKING_URI"]
        self.follower = Follower(
            RegistrySource(NAME, LoadOptions()),
            self.table,
            ProductionRouter(self.table, alias),
            LastGood(folder / "state", store, f"{NAME}@{alias}"),
            self.metrics,
            alias=alias,
            has_class_consent=consent,
            poll_s=0.05,
        )

    @property
    def number(self) -> int | None:
        """Number of the version in production."""
        version = self.table.production
        return None if version is None else version.number

    @property
    def failures(self) -> float:
        """Number of versions that did not load."""
        value = self.metrics.registry.get_sample_value(
            "eyevsai_version_load_failures_total", {"model": NAME}
        )
        return value or 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Load the first version, and poll inside the block."""
        self.follower.load_first()
        self.follower.start()
        try:
            yield
        finally:
            self.follower.stop()


def test_follower_loads_the_version_of_the_alias_and_frees_the_old_one(workplace: Path) -> None:
    followed = Followed(workplace)
    with followed.running():
        assert followed.number == 1
        assert followed.table.production.format == "onnx"
        before = weakref.ref(followed.table.production)
        for number in (2, 1, 2, 3, 2):  # the last one wins
            set_alias(number)
        wait_until(lambda: followed.number == 2)
        wait_until(lambda: before() is None)  # without a garbage collection
        set_alias(3)
        wait_until(lambda: followed.number == 3)
        assert followed.table.production.format == "learner"
    assert followed.failures == 0


def spoil(number: int, kind: str) -> None:
    """Damage the files of a version."""
    folder = fetch_model_dir(f"models:/{NAME}/{number}")
    model = folder / EXPORT_FOLDER / "model.onnx"
    if kind == "flipped":
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    elif kind == "torn":
        model.write_bytes(model.read_bytes()[:1000])
    elif kind == "missing":
        shutil.rmtree(folder)
    elif kind == "hostile":
        (folder / "code").mkdir()
        (folder / "code" / "evil.py").write_text("raise SystemExit('executed')", encoding="utf-8")


@pytest.mark.parametrize("kind", ["flipped", "torn", "missing", "hostile"])
def test_a_version_that_cannot_be_used_is_reported_once_and_the_old_one_stays(
    kind: str, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    followed = Followed(workplace)
    with followed.running():
        spoil(2, kind)
        set_alias(2)
        wait_until(lambda: followed.table.failure(2))
        time.sleep(0.5)  # further polls
        assert followed.number == 1
        assert followed.failures == 1
        reports = [each for each in caplog.messages if "Version 1 stays in use" in each]
        assert len(reports) == 1
        set_alias(3)
        wait_until(lambda: followed.number == 3)


def test_other_classes_need_consent(workplace: Path) -> None:
    client, followed = MlflowClient(), Followed(workplace)
    with followed.running():
        set_alias(OTHER_CLASSES)
        wait_until(lambda: followed.table.failure(OTHER_CLASSES))
        assert "added tall; removed wide" in str(followed.table.failure(OTHER_CLASSES))
        assert followed.number == 1
    with Followed(workplace, consent=True).running():
        pass
    # what `promote --class-change true` records
    digest = hash_classes(["across", "down", "tall"])
    client.set_registered_model_tag(NAME, f"{PRODUCTION}.classes_sha256", digest)
    set_alias(1)
    promoted = Followed(workplace)
    with promoted.running():
        set_alias(OTHER_CLASSES)
        wait_until(lambda: promoted.number == OTHER_CLASSES)


def test_without_the_registry_the_last_good_version_starts_and_is_followed_later(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Followed(workplace).running():
        pass
    database, away = workplace / "mlflow.db", workplace / "away.db"
    database.rename(away)
    database.mkdir()  # cannot be opened
    followed = Followed(workplace)
    with followed.running():
        assert followed.number == 1
        assert followed.follower.is_from_copy
        assert followed.follower.age_s() is None
        assert "Version 1 is served, the last one that was" in caplog.text
        database.rmdir()
        away.rename(database)
        set_alias(2)
        wait_until(lambda: followed.number == 2)
        assert not followed.follower.is_from_copy
        assert followed.follower.error is None
        # connections that are open would survive another name of the file
        rename_table(database, "registered_models", "away")
        wait_until(lambda: followed.follower.error)
        assert followed.number == 2
        assert followed.follower.age_s() > 0
        rename_table(database, "away", "registered_models")
        wait_until(lambda: followed.follower.error is None)
    copies = list((workplace / "state" / "serving").glob("*/version-*"))
    assert [path.name.rpartition("-")[0] for path in copies] == ["version-2"]
    model = next(copies[0].rglob("model.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    database.rename(away)
    database.mkdir()
    with pytest.raises(UserError, match="was changed"):
        Followed(workplace).follower.load_first()


def test_a_deleted_alias_stops_neither_a_server_nor_its_restart(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    followed = Followed(workplace)
    with followed.running():
        MlflowClient().delete_registered_model_alias(NAME, PRODUCTION)
        wait_until(lambda: "has no alias 'production'" in caplog.text)
        assert followed.number == 1
    again = Followed(workplace)
    with again.running():
        assert again.number == 1
    with pytest.raises(UserError, match="has no alias 'champion'"):
        Followed(workplace, alias="champion").follower.load_first()


class Process:
    """Server as a process of its own."""

    def __init__(self, folder: Path, *arguments: str, command: tuple[str, ...] = ()) -> None:
        call = command or (sys.executable, "-m", "eyevsai", "serve", NAME, "--port", "0")
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*call, *arguments],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.output.append(line)

    @property
    def text(self) -> str:
        """Everything that was printed."""
        return "".join(self.output)

    @property
    def url(self) -> str:
        """URL of the server, after it was printed."""
        wait_until(lambda: " at http" in self.text or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.text
        return self.text.partition(" at ")[2].split()[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._reader.join(5)
        return code


def is_last(values: list[int], value: int) -> bool:
    """Return True if a list ends with a value."""
    return values[-1:] == [value]


def send_request(url: str, body: bytes) -> socket.socket:
    """Send a request for a prediction, and return the connection with the answer."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def read_status(connection: socket.socket) -> int:
    """Read an answer to its end, and return its status."""
    with connection:
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split()[1])


@contextmanager
def served(folder: Path, *arguments: str, **options: Any) -> Iterator[Process]:
    """Run a server inside the block."""
    server = Process(folder, *arguments, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_server_answers_follows_the_alias_under_load_and_drains(
    workplace: Path, image: bytes
) -> None:
    with served(workplace, "--poll-s", "0.2", "--queue", "100") as server:
        url = server.url
        session = requests.Session()
        session.headers["Content-Type"] = "image/png"
        answer = session.post(f"{url}/v1/predict?top_k=2", data=image)
        values = answer.json()
        assert (answer.status_code, values["version"], values["arm"]) == (200, 1, PRODUCTION)
        assert values["model"] == NAME
        assert len(values["probabilities"]) == 2
        assert values["label"] == max(values["probabilities"], key=values["probabilities"].get)
        assert answer.headers["Eyevsai-Id"] == values["id"]
        for path in ("/ready", "/live", "/ping", "/health", "/docs", "/openapi.json"):
            assert session.get(url + path).status_code == 200, path
        cases = [
            ({"data": b"no image"}, 422, "not an image"),
            ({"data": image, "headers": {"Content-Type": "application/json"}}, 415, "/invocations"),
            ({"data": b""}, 400, "empty"),
            ({"data": image, "params": {"top_k": "many"}}, 400, "top_k"),
        ]
        for options, status, reason in cases:
            refused = session.post(f"{url}/v1/predict", **options)
            assert (refused.status_code, reason in refused.text) == (status, True), refused.text

        versions, codes, stopped = [], [], threading.Event()

        def load() -> None:
            own = requests.Session()
            while not stopped.is_set():
                got = own.post(f"{url}/v1/predict", data=image)
                codes.append(got.status_code)
                versions.append(got.json().get("version"))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in (2, 1, 2):
            set_alias(number)
            wait_until(partial(is_last, versions, number))
        stopped.set()
        for thread in threads:
            thread.join()
        assert set(codes) == {200}
        metrics = session.get(f"{url}/metrics").text
        assert 'eyevsai_version_info{alias="production"' in metrics
        assert session.get(f"{url}/v1/status").json()["versions"][0]["version"] == 2

        in_flight = [send_request(url, image) for _ in range(50)]
        time.sleep(0.1)  # all are accepted
        start = time.monotonic()
        assert server.stop() == 0, server.text
        assert time.monotonic() - start < 10
        assert [read_status(connection) for connection in in_flight] == [200] * 50
    assert "Traceback" not in server.text


@pytest.mark.processes("mlflow run starts the server, which outlives its run")
def test_run_of_mlflow_run_is_ended_when_the_server_is_ready(workplace: Path) -> None:
    (workplace / "entrypoints").mkdir()
    for name, text in {"MLproject": render_mlproject(""), **render_entry_points()}.items():
        (workplace / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "conda.yaml", workplace)
    command = (
        *(sys.executable, "-m", "mlflow", "run", ".", "-e", "serve", "--env-manager=local"),
        *("-P", f"name={NAME}", "-P", "port=0"),
    )
    with served(workplace, command=command) as server:
        assert requests.get(f"{server.url}/ready").status_code == 200
        client = MlflowClient()

        def find_run() -> Any:
            experiments = [each.experiment_id for each in client.search_experiments()]
            runs = client.search_runs(experiments, "tags.`eyevsai.job` = 'serve'")
            return runs[0] if runs and runs[0].info.status == "FINISHED" else None

        wait_until(find_run)
        run = find_run()
        assert run.data.tags["model_uri"] == f"models:/{NAME}/1"
        assert run.data.params["top_k"] == "5"
        assert requests.get(f"{server.url}/ready").status_code == 200
        url = server.url
        server.process.kill()  # the server ends with `mlflow run`

        def is_gone() -> bool:
            try:
                requests.get(f"{url}/ready", timeout=1)
            except requests.RequestException:
                return True
            return False

        wait_until(is_gone)


def test_a_reference_or_an_address_that_cannot_be_served(
    workplace: Path, eyevsai: Callable[..., Any]
) -> None:
    cases = [
        (("serve",), "Which model?"),
        (("serve", "./folder"), "cannot be served"),
        (("serve", "nothing"), "There is no registered model 'nothing'"),
        (("serve", f"{NAME}@champion"), "has no alias 'champion' (its aliases: production)"),
        (("serve", f"{NAME}/99"), "There is no version 99"),
        (("serve", NAME, "--host", "nowhere.invalid"), "nowhere.invalid"),
    ]
    for arguments, reason in cases:
        assert reason in eyevsai(*arguments, code=2).stderr, arguments
