"""Training everything: a matrix under one parent, by `mlflow run`, by command, on a cluster that loses a machine."""

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

from eyevsai.store import PARENT
from tests.conftest import ROOT, Eyevsai
from tests.journeys.conftest import MlflowRun

pytestmark = [pytest.mark.xdist_group("train_all"), pytest.mark.timeout(600)]


@pytest.fixture
def data(workplace: Path, stripes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(stripes, workplace / "data" / "stripes")
    monkeypatch.setenv("EYEVSAI_DATA", str(workplace / "data"))
    return workplace / "data"


def runs(job: str) -> list[Run]:
    return MlflowClient().search_runs(["0"], f"tags.job = '{job}' and attributes.status = 'FINISHED'")


def numbers(name: str) -> list[int]:
    return sorted(int(version.version) for version in MlflowClient().search_model_versions(f"name = '{name}'"))


def test_mlflow_run_trains_all_tuned_judged_and_exported(
    mlflow_run: MlflowRun, eyevsai: Eyevsai, workplace: Path, data: Path
) -> None:
    given = {"models": "deep_v1/standard,shallow/rf_hog_lbp", "parallel_jobs": "2", "run_tuning": "true",
             "tuning_trials": "1", "epochs": "1", "width": "4", "image_size": "32", "batch_size": "8",
             "n_estimators": "5", "export": "onnx"}  # fmt: skip
    said = mlflow_run(
        "train_all", *(part for name, value in given.items() for part in ("-P", f"{name}={value}"))
    ).stdout
    assert "2 trained, 0 there before" in said
    (parent,) = runs("train_all")
    for job in ("tune", "train", "evaluate", "export"):
        assert {run.data.tags[PARENT] for run in runs(job)} == {parent.info.run_id}, job
    assert {run.data.tags["model"] for run in runs("tune")} == {"deep_v1", "shallow"}
    studies = {run.info.run_id for run in runs("tune")}
    assert {run.data.tags[PARENT] for run in runs("trial")} == studies
    assert {run.data.tags["tuned_from"] for run in runs("train")} == studies
    for name in ("stripes-deep_v1-standard", "stripes-shallow-rf_hog_lbp"):
        (version,) = MlflowClient().search_model_versions(f"name = '{name}'")
        assert version.tags["export.onnx"] == "passed"
        assert float(version.tags["test_accuracy"]) >= 0
    artifacts = {file.path for file in MlflowClient().list_artifacts(parent.info.run_id, "logs")}
    assert artifacts == {"logs/stripes-deep_v1-standard.txt", "logs/stripes-shallow-rf_hog_lbp.txt"}
    assert parent.data.metrics["jobs/done"] == 2
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    again = json.loads(eyevsai("train-all", *flags, "--json").stdout)
    assert len(again["models"]) == 2
    assert len(runs("train")) == 2
    table = json.loads(Path(MlflowClient().download_artifacts(again["run_id"], "jobs.json")).read_text())
    assert [row[1] for row in table["data"]] == ["was done before"] * 2
    eyevsai("train-all", *flags, "--run-tuning", "false", "--export", "", "--force", "--auto-cleanup", "--keep", "1")
    assert numbers("stripes-deep_v1-standard") == [2]


@pytest.mark.slow
def test_what_is_left_of_a_model_is_done_later(eyevsai_here: Eyevsai, workplace: Path, data: Path) -> None:
    command = ("train-all", "--models", "shallow/rf_hog_lbp", "--n-estimators", "5", "--image-size", "32")
    eyevsai_here(*command, "--evaluate", "false")
    assert not runs("evaluate")
    eyevsai_here(*command)
    assert (len(runs("evaluate")), len(runs("train"))) == (1, 1)
    eyevsai_here(*command, "--export", "onnx")
    assert (len(runs("export")), len(runs("evaluate")), len(runs("train"))) == (1, 1, 1)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="no ray: pip install -e '.[ray]'")
def test_a_cluster_that_loses_a_machine_does_all_jobs(workplace: Path, data: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    settings = {"models": "deep_v1", "parallel_jobs": 2, "engine": "ray", "ray_address": cluster.address, "job_cpus": 1,
                "epochs": 100, "patience": 100, "width": 4, "image_size": 32, "batch_size": 8,
                "evaluate": "false"}  # fmt: skip
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "eyevsai", "train-all", *flags, "--json"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        matrix = subprocess.Popen(
            command, cwd=workplace, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + 240
        while len(list((workplace / "state").glob("runs/*/checkpoints/*.json"))) < 2:
            assert time.monotonic() < until
            assert matrix.poll() is None, matrix.communicate()
            time.sleep(0.2)
        cluster.remove_node(machines[0], allow_graceful=False)
        said, errors = matrix.communicate(timeout=300)
    finally:
        cluster.shutdown()
    assert matrix.returncode == 0, errors
    assert len(json.loads(said)["models"]) == 2
    trained = MlflowClient().search_runs(["0"], "tags.job = 'train'")
    assert [run.info.status for run in trained] == ["FINISHED"] * 2  # the lost one was gone on with elsewhere
    assert all(run.data.params["epochs"] == "100" for run in trained)
