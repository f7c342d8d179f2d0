"""`train-all`: a grid of jobs under one parent run, by `mlflow run`, by command, and on a cluster
that loses a machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import Tensor

from eyevsai.executors import base
from eyevsai.executors.base import State, Status, Task, TaskHandle
from eyevsai.executors.factory import make_executor
from eyevsai.executors.local import LocalExecutor
from eyevsai.executors.settings import ExecutorSettings
from eyevsai.models.deep_v1.network import Block
from eyevsai.store.tags import PARENT
from eyevsai.workflows.sweep import train_all
from tests.conftest import ROOT, TINY_NETWORK, Eyevsai, experiments
from tests.e2e.conftest import MlflowRun
from tests.in_process_executor import InProcessExecutor

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def data(workplace: Path, stripes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(stripes, workplace / "data" / "stripes")
    monkeypatch.setenv("EYEVSAI_DATA", str(workplace / "data"))
    return workplace / "data"


def runs(job: str) -> list[Run]:
    return MlflowClient().search_runs(
        experiments(), f"tags.`eyevsai.job` = '{job}' and attributes.status = 'FINISHED'"
    )


def numbers(name: str) -> list[int]:
    return sorted(
        int(version.version) for version in MlflowClient().search_model_versions(f"name = '{name}'")
    )


@pytest.mark.usefixtures("jobs_in_process")
def test_entry_point_trains_all_tuned_evaluated_and_exported(
    entry_point: Eyevsai, eyevsai: Eyevsai, workplace: Path, data: Path
) -> None:
    train_all_and_check(entry_point, eyevsai, "deep_v1/standard", "deep_v1/residual")


@pytest.mark.slow
def test_mlflow_run_trains_all_in_processes(
    mlflow_run: MlflowRun, eyevsai: Eyevsai, workplace: Path, data: Path
) -> None:
    train_all_and_check(mlflow_run, eyevsai, "deep_v1/standard", "shallow/rf_hog_lbp")


def train_all_and_check(mlflow_run: MlflowRun, eyevsai: Eyevsai, *models: str) -> None:
    names = [f"stripes-{model.replace('/', '-')}" for model in models]
    given = {
        "models": ",".join(models),
        "parallel_jobs": "2",
        "run_tuning": "true",
        "tuning_trials": "1",
        "epochs": "1",
        "width": "4",
        "image_size": "32",
        "batch_size": "8",
        "threads": "1",
        "export": "onnx",
    }
    said = mlflow_run(
        "train_all", *(part for name, value in given.items() for part in ("-P", f"{name}={value}"))
    ).stdout
    assert "2 trained, 0 cached" in said
    (parent,) = runs("train_all")
    for job in ("tune", "train", "evaluate", "export"):
        assert {run.data.tags[PARENT] for run in runs(job)} == {parent.info.run_id}, job
    assert {
        f"{run.data.tags['model']}/{run.data.tags['variation']}" for run in runs("tune")
    } == set(models)
    studies = {run.info.run_id for run in runs("tune")}
    assert {run.data.tags[PARENT] for run in runs("trial")} == studies
    assert {run.data.tags["tuned_from"] for run in runs("train")} == studies
    for name in names:
        (version,) = MlflowClient().search_model_versions(f"name = '{name}'")
        assert version.tags["export.onnx"] == "passed"
        assert float(version.tags["test_accuracy"]) >= 0
    artifacts = {file.path for file in MlflowClient().list_artifacts(parent.info.run_id, "logs")}
    assert artifacts == {f"logs/{name}.txt" for name in names}
    assert parent.data.metrics["jobs/done"] == 2
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    again = json.loads(eyevsai("train-all", *flags, "--json").stdout)
    assert len(again["models"]) == 2
    assert len(runs("train")) == 2
    table = json.loads(
        Path(MlflowClient().download_artifacts(again["run_id"], "jobs.json")).read_text()
    )
    assert [row[1] for row in table["data"]] == ["cached"] * 2
    at = flags.index("--export")
    flags = [*flags[:at], *flags[at + 2 :], "--models", models[0]]
    eyevsai(
        "train-all", *flags, "--run-tuning", "false", "--force", "--auto-cleanup", "--keep", "1"
    )
    assert numbers("stripes-deep_v1-standard") == [2]


@pytest.mark.requirement(15)
def test_train_all_trains_in_a_process(eyevsai: Eyevsai, workplace: Path, data: Path) -> None:
    command = (
        "train-all",
        "--models",
        "deep_v1/standard",
        *TINY_NETWORK,
        "--evaluate",
        "false",
    )
    assert "1 trained, 0 cached" in eyevsai(*command, PYTHONPATH=str(ROOT)).stdout
    ((parent,), (trained,)) = runs("train_all"), runs("train")
    assert trained.data.tags["eyevsai.process"] != parent.data.tags["eyevsai.process"]
    logs = Path(MlflowClient().download_artifacts(parent.info.run_id, "logs"))
    assert "epoch 1 of 1" in (logs / "stripes-deep_v1-standard.txt").read_text()


class Hanging(TaskHandle):
    """A task that runs until it is terminated."""

    asked = False

    def poll(self) -> Status:
        return (
            Status(State.FAILED, reason="asked to end")
            if self.asked
            else Status(State.RUNNING, seconds=80.0)
        )

    def terminate(self) -> None:
        self.asked = True

    def kill(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        pass


class HangingExecutor(InProcessExecutor):
    """Records its tasks; those of residual networks hang."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self.tasks: list[Task] = []

    def submit(self, task: Task, folder: Path) -> TaskHandle:
        self.tasks.append(task)
        return Hanging(task) if "residual" in task.name else super().submit(task, folder)


@pytest.mark.requirement(15)
def test_job_that_hangs_is_ended_and_leaves_the_others(
    eyevsai: Eyevsai, workplace: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[HangingExecutor] = []

    def make(settings: ExecutorSettings, max_workers: int) -> HangingExecutor:
        assert type(make_executor(settings, max_workers)) is LocalExecutor
        made.append(HangingExecutor(max_workers))
        return made[-1]

    monkeypatch.setattr(train_all, "make_executor", make)
    monkeypatch.setattr(base, "POLL_S", 0.01)
    command = (
        "train-all",
        "--models",
        "deep_v1",
        *TINY_NETWORK,
        "--evaluate",
        "false",
        "--parallel-jobs",
        "2",
        "--job-timeout",
        "75",
        "--cpus-per-job",
        "3",
    )
    failed = eyevsai(*command, code=1)
    assert "1 of 2 jobs failed" in failed.stderr
    assert "- stripes-deep_v1-residual: took longer than 75 s" in failed.stderr
    assert "Traceback" not in failed.stderr
    (used,) = made
    assert used.max_workers == 2
    assert {(task.timeout_s, task.cpus) for task in used.tasks} == {(75.0, 3)}
    assert {run.data.tags["variation"] for run in runs("train")} == {"standard"}
    (parent,) = MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'train_all'")
    assert parent.info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_in_process")
def test_missing_steps_of_a_model_are_done_later(
    eyevsai: Eyevsai, workplace: Path, data: Path
) -> None:
    command = (
        "train-all",
        "--models",
        "shallow/rf_hog_lbp",
        "--n-estimators",
        "5",
        "--image-size",
        "32",
        "--threads",
        "1",
    )
    eyevsai(*command, "--evaluate", "false")
    assert not runs("evaluate")
    eyevsai(*command)
    assert (len(runs("evaluate")), len(runs("train"))) == (1, 1)
    eyevsai(*command, "--export", "onnx")
    assert (len(runs("export")), len(runs("evaluate")), len(runs("train"))) == (1, 1, 1)


def fail_where_residual(block: Block, images: Tensor) -> Tensor:
    """A block without its skip connection, which fails in the residual network."""
    pooled: Tensor = block.pool(block.activation(block.body(images)))
    return pooled if block.skip is None else pooled * float("nan")


@pytest.mark.requirement(15)
@pytest.mark.usefixtures("jobs_in_process")
def test_failed_job_is_named_and_leaves_the_others(
    eyevsai: Eyevsai, workplace: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        "train-all",
        "--models",
        "deep_v1",
        *TINY_NETWORK,
        "--evaluate",
        "false",
    )
    with monkeypatch.context() as patch:
        patch.setattr(Block, "forward", fail_where_residual)
        failed = eyevsai(*command, code=1)
    assert "1 of 2 jobs failed" in failed.stderr
    assert "- stripes-deep_v1-residual: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert {run.data.tags["variation"] for run in runs("train")} == {"standard"}
    again = json.loads(eyevsai(*command, "--json").stdout)
    assert len(again["models"]) == 2
    assert sorted(run.data.tags["variation"] for run in runs("train")) == ["residual", "standard"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="no ray: pip install -e '.[ray]'")
def test_a_cluster_that_loses_a_machine_does_all_jobs(workplace: Path, data: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    settings = {
        "models": "deep_v1",
        "parallel_jobs": 2,
        "executor": "ray",
        "ray_address": cluster.address,
        "cpus_per_job": 1,
        "epochs": 100,
        "patience": 100,
        "width": 4,
        "image_size": 32,
        "batch_size": 8,
        "evaluate": "false",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "eyevsai", "train-all", *flags, "--json"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            command,
            cwd=workplace,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 240
        while len(list((workplace / "state").glob("runs/*/checkpoints/*.json"))) < 2:
            assert time.monotonic() < until
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        cluster.remove_node(machines[0], allow_graceful=False)
        said, errors = process.communicate(timeout=300)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, errors
    assert len(json.loads(said)["models"]) == 2
    trained = MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'train'")
    # the lost one was gone on with elsewhere
    assert [run.info.status for run in trained] == ["FINISHED"] * 2
    assert all(run.data.params["epochs"] == "100" for run in trained)
