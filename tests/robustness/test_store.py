"""Requirements 2, 4 and 6: a store that is not there yet, that goes away, and that many write to at
once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.core.names import ModelName
from eyevsai.registry.registration import register
from eyevsai.store.backend import open_store
from eyevsai.store.run_dir import RunDir
from eyevsai.tracking.experiment import find_experiment
from eyevsai.tracking.experiment_view import describe_experiment
from eyevsai.tracking.run import open_run
from tests.conftest import ROOT, Eyevsai, create_database, experiments, find_port
from tests.forks import join_forks, start_fork
from tests.legacy_registry import make_record, write_registry
from tests.robustness.runs import make_sandbox

pytestmark = [pytest.mark.timeout(900)]  # an outage of five minutes is one
Record = Callable[[str, object], None]
TINY = {"image_size": 32, "width": 4, "epochs": 1, "batch_size": 8, "head_units": 0}


class Server:
    """An MLflow server that can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = find_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.folder / 'mlflow.db'}",
            "--serve-artifacts",
            "--artifacts-destination",
            str(self.folder / "artifacts"),
            "--default-artifact-root",
            "mlflow-artifacts:/",
        ]
        env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        env.pop("MLFLOW_TRACKING_URI", None)
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=env,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, template_store: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template_store, folder / "mlflow.db")
    import sqlite3

    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("update experiments set artifact_location = 'mlflow-artifacts:/0'")
    database.close()
    server = Server(folder)
    server.start()
    yield server
    server.stop()


def wait_for_line(job: subprocess.Popen[str], start: str) -> None:
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith(start):
            return


OUTAGES = [5, *(pytest.param(seconds, marks=pytest.mark.slow) for seconds in (10, 300))]


@pytest.mark.requirement(4)
@pytest.mark.processes("a server is stopped and started again beside a training")
@pytest.mark.parametrize("outage_s", OUTAGES)
def test_server_has_every_point_after_an_outage(
    server: Server, tmp_path: Path, template_store: Path, stripes: Path, outage_s: int
) -> None:
    sandbox = make_sandbox(tmp_path / "sandbox", template_store, stripes)
    epochs = 4 * outage_s  # an epoch takes a third of a second and more: longer than the outage
    env = sandbox.environment(FAULT="slow", MLFLOW_TRACKING_URI=server.uri, FAULT_KEEP="")
    # not a pipe: nobody reads it during the outage, and a full one would hold the job up
    log = tmp_path / "log"
    with open(log, "w") as stream:
        command = sandbox.command(epochs=epochs, patience=0)
        job = subprocess.Popen(
            command, cwd=sandbox.folder, env=env, stdout=stream, stderr=subprocess.STDOUT
        )
    while "\nepoch 2 " not in log.read_text():
        assert job.poll() is None, log.read_text()
        time.sleep(0.1)
    server.stop()
    time.sleep(outage_s)
    server.start()
    job.wait(timeout=outage_s + 200)
    assert job.returncode == 0, log.read_text()
    client = MlflowClient(tracking_uri=server.uri)
    (run,) = client.search_runs(experiments(client))
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "valid/loss")
    assert [point.step for point in history] == list(range(1, epochs + 1))
    times = [
        point.timestamp for point in client.get_metric_history(run.info.run_id, "images_per_s")
    ]
    # no epoch was delayed
    assert max(after - before for before, after in zip(times, times[1:], strict=False)) < 1500
    assert client.get_model_version("stripes-deep_v1-standard", "1").status == "READY"


@pytest.mark.requirement(4)
@pytest.mark.slow
def test_pending_writes_are_synced_after_a_server_was_gone_for_good(
    server: Server, tmp_path: Path, template_store: Path, stripes: Path
) -> None:
    sandbox = make_sandbox(tmp_path / "sandbox", template_store, stripes)
    env = sandbox.environment(FAULT="slow", MLFLOW_TRACKING_URI=server.uri, FAULT_KEEP="")
    command = sandbox.command(epochs=12, patience=0)
    job = subprocess.Popen(
        command,
        cwd=sandbox.folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_for_line(job, "epoch 2 ")
    server.stop()
    said = job.communicate(timeout=200)[0]
    assert job.returncode == 3, said
    assert "eyevsai sync" in said.splitlines()[-1]
    assert "Traceback" not in said
    server.start()
    sync = [sys.executable, "-m", "eyevsai", "sync"]
    done = subprocess.run(
        sync, cwd=sandbox.folder, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 pending writes"
    client = MlflowClient(tracking_uri=server.uri)
    (run,) = client.search_runs(experiments(client))
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "valid/loss")) == 12
    assert run.data.tags["version"] == "models:/stripes-deep_v1-standard/1"
    assert len(client.search_model_versions("name = 'stripes-deep_v1-standard'")) == 1


def start_eight(uri: str, folder: Path, stripes: Path) -> list[str]:
    """Eight trainings at once; what those said that failed."""
    flags = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "eyevsai", "train", "--data", str(stripes), *flags]
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": uri,
        "EYEVSAI_STATE": str(folder / "s"),
    }
    jobs = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(8)
    ]
    said = [job.communicate(timeout=280)[1] for job in jobs]
    return [text for job, text in zip(jobs, said, strict=True) if job.returncode != 0]


@pytest.fixture
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a store in which there are no tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}"
    return create_database(request.getfixturevalue("postgres"), f"store_{time.monotonic_ns()}")


BOTH = ("sqlite", "postgres")
SLOWLY_BOTH = ("sqlite", pytest.param("postgres", marks=pytest.mark.slow))


@pytest.mark.requirement(2)
@pytest.mark.slow
@pytest.mark.parametrize("new_store", BOTH, indirect=True)
@pytest.mark.parametrize("round_", range(10))
def test_eight_trainings_start_on_a_store_that_does_not_exist(
    tmp_path: Path, stripes: Path, new_store: str, round_: int, record_property: Record
) -> None:
    failed = start_eight(new_store, tmp_path, stripes)
    record_property("tried", 8)
    record_property("survived", 8 - len(failed))
    assert failed == []
    versions = MlflowClient(tracking_uri=new_store).search_model_versions(
        "name = 'stripes-deep_v1-standard'"
    )
    assert sorted(int(version.version) for version in versions) == list(range(1, 9))


def register_many(count: int, barrier: Barrier | None = None) -> None:
    """Open the store and register versions of one model, once the others are there too."""
    if barrier:
        barrier.wait(60)
    uri = open_store()
    client, name = MlflowClient(), ModelName("many", "deep_v1", "standard")
    for number in range(count):
        run = client.create_run("0")
        model = client.create_logged_model("0", "model", source_run_id=run.info.run_id)
        client.finalize_logged_model(model.model_id, "READY")
        register(uri, name, model.model_id, run.info.run_id, {"number": number})


REGISTER = """
import sys
from tests.robustness.test_store import register_many
register_many(int(sys.argv[1]))
"""


def versions_of_many(uri: str) -> list[int]:
    versions = MlflowClient(tracking_uri=uri).search_model_versions(
        "name = 'many-deep_v1-standard'", max_results=1000
    )
    return sorted(int(version.version) for version in versions)


@pytest.mark.requirement(2)
@pytest.mark.requirement(6)
@pytest.mark.processes("eight forks race for a store that does not exist; they import nothing")
@pytest.mark.parametrize("new_store", BOTH, indirect=True)
def test_eight_forks_create_one_store_and_register_without_a_gap(
    new_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store)
    barrier = multiprocessing.get_context("fork").Barrier(8)
    assert join_forks([start_fork(register_many, 3, barrier) for _ in range(8)]) == [0] * 8
    assert versions_of_many(new_store) == list(range(1, 25))


@pytest.mark.requirement(2)
@pytest.mark.requirement(6)
@pytest.mark.slow
@pytest.mark.parametrize("new_store", BOTH, indirect=True)
@pytest.mark.parametrize("count", [5, 50])
def test_eight_processes_create_one_store_and_register_without_a_gap(
    tmp_path: Path, new_store: str, count: int, record_property: Record
) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": new_store}
    command = [sys.executable, "-c", REGISTER, str(count)]
    jobs = [
        subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    said = [job.communicate(timeout=500)[1] for job in jobs]
    numbers = versions_of_many(new_store)
    record_property("tried", 8 * count)
    record_property("survived", len(numbers))
    assert [job.returncode for job in jobs] == [0] * 8, said
    assert numbers == list(range(1, 8 * count + 1))


@pytest.mark.requirement(6)
@pytest.mark.parametrize("new_store", SLOWLY_BOTH, indirect=True)
def test_many_runs_log_one_dataset_at_the_same_moment(
    tmp_path: Path, new_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store)
    client = MlflowClient(tracking_uri=open_store())
    runs = []
    for _ in range(8):
        folder = RunDir(tmp_path / "state", client.create_run("0").info.run_id)
        folder.path.mkdir(parents=True)
        runs.append(open_run(client, folder))
    for number in range(10):
        for run in runs:
            run.log_input("pets", f"{number:036}", [str(tmp_path)], {"images": number})
    for run in runs:
        assert run.queue.flush(60) == 0
        run.flush()  # raises what was refused
        run.queue.close()
        assert len(client.get_run(run.run_id).inputs.dataset_inputs) == 10


@pytest.mark.requirement(6)
@pytest.mark.parametrize("new_store", SLOWLY_BOTH, indirect=True)
def test_many_jobs_create_one_experiment_at_the_same_moment(
    new_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store)
    open_store()
    barrier = threading.Barrier(8)

    def find(_: int) -> str:
        client = MlflowClient(tracking_uri=new_store)
        barrier.wait()
        experiment_id = find_experiment(client, "pets")
        describe_experiment(client, experiment_id)
        return experiment_id

    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"new {number}")
            assert len(set(pool.map(find, range(8)))) == 1
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
        assert len(set(pool.map(find, range(8)))) == 1  # that of a dataset


@pytest.mark.parametrize("new_store", SLOWLY_BOTH, indirect=True)
def test_store_takes_the_longest_values_of_an_imported_record(
    eyevsai: Eyevsai, workplace: Path, new_store: str
) -> None:
    longest = {
        "version": "v" * 60,
        "variation": "v" * 60,
        "dataset": "d/ :?é" + "d" * 54,
        "model_type": "m" * 60,
    }
    params = {f"_setting-{number}. {'x' * 180}": "x" * 9000 for number in range(150)}
    metrics = {f"{number}": 1e300 for number in range(1100)}
    record = make_record(
        1, final_hyperparameters=params, metrics=metrics, tags=["x" * 90] * 200, **longest
    )
    path = write_registry(workplace / "training_registry.json", record)
    eyevsai("registry", "import", str(path), MLFLOW_TRACKING_URI=new_store)
    (run,) = MlflowClient(tracking_uri=new_store).search_runs(
        experiments(MlflowClient(tracking_uri=new_store))
    )
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 150
    assert len(run.data.metrics) == 1101
    again = eyevsai("registry", "import", str(path), MLFLOW_TRACKING_URI=new_store).stdout
    assert again.endswith("0 imported, 1 already imported, 0 rejected\n")


@pytest.mark.slow
def test_an_import_through_a_server_prints_nothing_but_json(
    eyevsai: Eyevsai, workplace: Path, server: Server
) -> None:
    path = write_registry(workplace / "training_registry.json", make_record(1))
    done = json.loads(
        eyevsai("registry", "import", str(path), "--json", MLFLOW_TRACKING_URI=server.uri).stdout
    )
    assert [each["model_uri"] for each in done["written"]] == ["models:/pets-deep_v2-resnet/1"]
    said = eyevsai(
        "predict",
        "models:/pets-deep_v2-resnet/1",
        str(path),
        code=2,
        MLFLOW_TRACKING_URI=server.uri,
    ).stderr
    assert "was imported" in said
