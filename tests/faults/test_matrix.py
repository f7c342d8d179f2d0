"""Row 15: of jobs side by side one crashes and one hangs; and a matrix that is itself killed."""

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

from tests.conftest import ROOT, Eyevsai
from tests.faults.runs import INJECT

pytestmark = pytest.mark.timeout(400)

SMALL = ("--image-size", "32", "--batch-size", "8", "--width", "4", "--epochs", "2", "--evaluate", "false")
PATH = f"{INJECT}{os.pathsep}{ROOT}"


@pytest.fixture
def data(tmp_path: Path, stripes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of two datasets."""
    for name in ("stripes", "bands"):
        shutil.copytree(stripes, tmp_path / "data" / name)
    monkeypatch.setenv("EYEVSAI_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def runs(job: str, status: str = "FINISHED") -> list[Run]:
    return MlflowClient().search_runs(["0"], f"tags.job = '{job}' and attributes.status = '{status}'")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that a command line in this folder started, however deep."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_row_15_a_crash_and_a_hang_leave_the_others_running(eyevsai: Eyevsai, workplace: Path, data: Path) -> None:
    command = ("train-all", "--models", "deep_v1", "--parallel-jobs", "2", *SMALL)
    faults = {"FAULT": "kill:2@bands-deep_v1-residual;hang:2@stripes-deep_v1-residual", "PYTHONPATH": PATH}
    failed = eyevsai(*command, "--job-timeout", "75", code=1, **faults)
    assert "2 of 4 jobs failed" in failed.stderr
    assert "- bands-deep_v1-residual: was killed by SIGKILL" in failed.stderr
    assert "- stripes-deep_v1-residual: took longer than 75 s" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not processes_of(workplace / "state")
    assert {run.data.tags["variation"] for run in runs("train")} == {"standard"}
    (parent,) = runs("train_all", "FAILED")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs("train")} == {parent.info.run_id}
    again = json.loads(eyevsai(*command, "--json").stdout)
    assert len(again["models"]) == 4
    assert len(runs("train")) == 4  # two of them now
    (second,) = runs("train_all")
    assert len([run for run in runs("train") if run.data.tags["mlflow.parentRunId"] == second.info.run_id]) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_matrix_that_ends_early_takes_its_jobs_with_it_and_goes_on_later(
    eyevsai: Eyevsai, workplace: Path, data: Path, number: signal.Signals
) -> None:
    command = ("train-all", "--models", "deep_v1/standard", "--datasets", "stripes", *SMALL)
    env = os.environ | {"FAULT": "hang:9", "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}  # in the second epoch
    matrix = subprocess.Popen([sys.executable, "-m", "eyevsai", *command], cwd=workplace, env=env,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    until = time.monotonic() + 120
    while not any((workplace / "state").glob("runs/*/checkpoints/*.json")):
        assert time.monotonic() < until
        assert matrix.poll() is None, matrix.stderr.read() if matrix.stderr else ""
        time.sleep(0.2)
    matrix.send_signal(number)
    assert matrix.wait(40) == (143 if number is signal.SIGTERM else -number)
    until = time.monotonic() + 30
    while processes_of(workplace / "state"):
        assert time.monotonic() < until
        time.sleep(0.2)
    eyevsai(*command)
    (trained,) = runs("train")
    assert len(MlflowClient().search_runs(["0"], "tags.job = 'train'")) == 1  # it was gone on with
    (parent,) = runs("train_all")
    assert trained.data.tags["mlflow.parentRunId"] == parent.info.run_id
