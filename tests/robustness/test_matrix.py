"""Requirement 15: `train-all` survives a job that crashes and one that hangs, and resumes after it
is itself killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.conftest import ROOT, Eyevsai, experiments
from tests.robustness.runs import INJECT, inject

pytestmark = pytest.mark.timeout(400)

SMALL = (
    "--image-size",
    "32",
    "--batch-size",
    "8",
    "--width",
    "4",
    "--epochs",
    "2",
    "--evaluate",
    "false",
)
PATH = f"{INJECT}{os.pathsep}{ROOT}"


@pytest.fixture
def data(tmp_path: Path, stripes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of two datasets."""
    for name in ("stripes", "bands"):
        shutil.copytree(stripes, tmp_path / "data" / name)
    monkeypatch.setenv("EYEVSAI_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def runs(job: str, status: str = "FINISHED") -> list[Run]:
    return MlflowClient().search_runs(
        experiments(), f"tags.`eyevsai.job` = '{job}' and attributes.status = '{status}'"
    )


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that a command line in this folder started, however deep."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or ())
    ]


@pytest.mark.requirement(15)
@pytest.mark.slow
def test_crashed_and_hanging_jobs_leave_the_others_running(
    eyevsai_process: Eyevsai, workplace: Path, data: Path
) -> None:
    command = ("train-all", "--models", "deep_v1", "--parallel-jobs", "2", *SMALL)
    faults = {
        "FAULT": "kill:2@bands-deep_v1-residual;hang:2@stripes-deep_v1-residual",
        "PYTHONPATH": PATH,
    }
    failed = eyevsai_process(*command, "--job-timeout", "75", code=1, **faults)
    assert "2 of 4 jobs failed" in failed.stderr
    assert "- bands-deep_v1-residual: was killed by SIGKILL" in failed.stderr
    assert "- stripes-deep_v1-residual: took longer than 75 s" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not processes_of(workplace / "state")
    assert {run.data.tags["variation"] for run in runs("train")} == {"standard"}
    (parent,) = runs("train_all", "FAILED")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs("train")} == {parent.info.run_id}
    again = json.loads(eyevsai_process(*command, "--json").stdout)
    assert len(again["models"]) == 4
    assert len(runs("train")) == 4  # two of them now
    (second,) = runs("train_all")
    assert (
        len(
            [
                run
                for run in runs("train")
                if run.data.tags["mlflow.parentRunId"] == second.info.run_id
            ]
        )
        == 2
    )


@pytest.mark.requirement(15)
@pytest.mark.usefixtures("jobs_in_process")
def test_interrupted_job_of_train_all_is_resumed(
    eyevsai: Eyevsai, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        "train-all",
        "--models",
        "deep_v1/standard",
        "--datasets",
        "stripes",
        "--threads",
        "1",
        *SMALL,
    )
    with monkeypatch.context() as patch:
        inject(patch, "stop:9")  # in the second epoch
        eyevsai(*command, code=143)
    (interrupted,), (_,) = runs("train", "KILLED"), runs("train_all", "KILLED")
    eyevsai(*command)
    (trained,) = MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'train'")
    assert (trained.info.run_id, trained.info.status) == (interrupted.info.run_id, "FINISHED")
    (parent,) = runs("train_all")
    assert trained.data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.requirement(15)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_train_all_ends_its_jobs_and_resumes(
    eyevsai_process: Eyevsai, workplace: Path, data: Path, number: signal.Signals
) -> None:
    command = ("train-all", "--models", "deep_v1/standard", "--datasets", "stripes", *SMALL)
    # in the second epoch
    env = os.environ | {"FAULT": "hang:9", "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "eyevsai", *command],
        cwd=workplace,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not any((workplace / "state").glob("runs/*/checkpoints/*.json")):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(40) == (143 if number is signal.SIGTERM else -number)
    until = time.monotonic() + 30
    while processes_of(workplace / "state"):
        assert time.monotonic() < until
        time.sleep(0.2)
    eyevsai_process(*command)
    (trained,) = runs("train")
    assert (
        len(MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'train'")) == 1
    )  # it was gone on with
    (parent,) = runs("train_all")
    assert trained.data.tags["mlflow.parentRunId"] == parent.info.run_id
