"""The shallow family, as a person trains it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.models.shallow.learner import ShallowLearner
from tests.conftest import ROOT, Eyevsai, experiments, write_images
from tests.e2e.test_train import artifacts, only_run

FEW = ("--n-estimators", "10", "--threads", "1")


@pytest.mark.processes("images are decoded in forks")
def test_forest_learns_digits(entry_point: Eyevsai) -> None:
    given = (
        "-P",
        "model=shallow",
        "-P",
        "variation=rf_hog_lbp",
        "-P",
        "n_estimators=30",
        "-P",
        "threads=1",
    )
    done = entry_point("train", *given)
    assert "models:/digits-shallow-rf_hog_lbp/1" in done.stdout
    run, client = only_run(), MlflowClient()
    assert run.info.status == "FINISHED"
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    assert (config["n_estimators"], config["image_size"]) == (30, 32)
    assert [
        point.step for point in client.get_metric_history(run.info.run_id, "valid/accuracy")
    ] == [1]
    metrics = run.data.metrics
    assert metrics["best_valid_accuracy"] == metrics["valid/accuracy"] > 0.9
    importance = {name: metrics[f"importance_{name}"] for name in ("hog", "lbp", "color")}
    assert max(importance, key=importance.get) == "hog"  # digits are shapes
    pictures = {"curves.png", "confusion_matrix.png", "top_losses.png", "importance.png"}
    assert artifacts(run.info.run_id, "plots") == pictures
    assert int(run.data.tags["parameters"]) > 1000
    classifier = package.load("models:/digits-shallow-rf_hog_lbp/1")
    assert classifier.predict(np.full((8, 8, 3), 255, dtype=np.uint8)).label in "0123456789"


@pytest.mark.processes("images are decoded in forks")
@pytest.mark.parametrize("variation", ["svm_hog_lbp", "rf_hog_lbp"])
def test_photographs(eyevsai: Eyevsai, photos: Path, variation: str) -> None:
    small = (
        "--image-size",
        "64",
        *(FEW if variation == "rf_hog_lbp" else ("--components", "40", "--threads", "1")),
    )
    done = eyevsai(
        "train",
        "--model",
        "shallow",
        "--variation",
        variation,
        "--dataset",
        "vegetables",
        *small,
        EYEVSAI_DATA=str(photos),
    )
    assert f"models:/vegetables-shallow-{variation}/1" in done.stdout
    assert only_run().data.metrics["best_valid_accuracy"] > 0.4  # of fifteen


def test_a_class_too_small_to_calibrate_is_told_before_a_run_is_made(
    eyevsai: Eyevsai, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "set", {"many": 20, "few": 4})
    done = eyevsai("train", "--model", "shallow", "--data", str(folder), code=2)
    assert "too few of: few (2)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not MlflowClient().search_runs(experiments())


@pytest.mark.slow
def test_a_fit_that_is_interrupted_ends_killed(workplace: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "eyevsai",
        "train",
        "--model",
        "shallow",
        "--variation",
        "rf_hog_lbp",
        "--n-estimators",
        "5000",
        "--threads",
        "1",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, cwd=workplace, env=env, stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("shallow/rf_hog_lbp"):
            break
    time.sleep(4)
    began = time.monotonic()
    job.send_signal(signal.SIGTERM)
    rest = job.communicate(timeout=60)[1]
    assert job.returncode == 143, rest
    assert time.monotonic() - began < 10
    assert "Traceback" not in rest
    assert "--resume" not in rest
    assert only_run().info.status == "KILLED"


def test_interrupted_fit_ends_killed(eyevsai: Eyevsai, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr(ShallowLearner, "fit", fit)
    done = eyevsai(
        "train", "--model", "shallow", "--variation", "rf_hog_lbp", "--threads", "1", code=143
    )
    assert "Traceback" not in done.stderr
    assert "--resume" not in done.stderr
    assert only_run().info.status == "KILLED"
