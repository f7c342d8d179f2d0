"""`--minutes`: runs that end with their time budget, and their repetition without a clock."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from eyevsai.store.tags import WEIGHTS_SHA256
from tests.conftest import ROOT, SMALL, Eyevsai, experiments

MINUTES = 0.15
CONTRADICTION = "contradicts --minutes, which determines the number of epochs"


@pytest.fixture
def workplace(workplace: Path, stripes: Path) -> Path:
    (workplace / "data").mkdir()
    (workplace / "data" / "stripes").symlink_to(stripes)
    return workplace


def last_run(job: str = "train") -> Run:
    runs = MlflowClient().search_runs(experiments(), f"tags.`eyevsai.job` = '{job}'", max_results=1)
    run: Run = runs[0]
    return run


def artifact(run: Run, name: str, folder: Path) -> Any:
    return json.loads(
        Path(MlflowClient().download_artifacts(run.info.run_id, name, str(folder))).read_text()
    )


def weights(number: str) -> str:
    version = MlflowClient().get_model_version("stripes-deep_v1-standard", number)
    return str(version.tags[WEIGHTS_SHA256])


def test_timed_run_logs_plan_and_outcome_and_is_repeated_with_equal_weights(
    eyevsai: Eyevsai, workplace: Path, tmp_path: Path
) -> None:
    start = time.monotonic()
    done = eyevsai("train", "--dataset", "stripes", *SMALL, "--minutes", str(MINUTES))
    seconds = time.monotonic() - start
    assert "\nepoch 1  valid accuracy" in done.stderr
    assert "s of the time budget left" in done.stderr
    run = last_run()
    plan = artifact(run, "time_budget.json", tmp_path)
    assert plan["plan"]["image_size"] == 32
    assert plan["outcome"]["seconds"] <= seconds
    positions = artifact(run, "schedule.json", tmp_path)["positions"]
    assert len(positions) == plan["outcome"]["epochs"] >= 1
    assert int(run.data.params["epochs"]) == plan["plan"]["epochs"]
    assert run.data.params["patience"] == "0"

    eyevsai("train", "--config", f"run:{run.info.run_id}")
    again = last_run()
    assert again.data.params["replay"] == run.info.run_id
    assert artifact(again, "schedule.json", tmp_path / "again")["positions"] == positions
    assert weights("1") == weights("2")

    alone = ("--dataset", "stripes", *SMALL, "--replay", run.info.run_id)
    others = {"epochs": 12_345, "positions": positions}  # never the default number of epochs
    MlflowClient().log_dict(run.info.run_id, others, "schedule.json")
    for length in ((), ("--minutes", "1")):
        error = eyevsai("train", *alone, *length, code=2).stderr
        assert f"requires the settings of that run. Use --config run:{run.info.run_id}" in error

    options = ("--config", f"run:{run.info.run_id}", "--epochs", "1")
    eyevsai("train", *options)
    shorter = artifact(last_run(), "config.json", tmp_path / "shorter")
    assert (shorter["epochs"], shorter["minutes"], shorter["replay"]) == (1, None, None)
    eyevsai("train", "--config", f"run:{last_run().info.run_id}", "--minutes", str(MINUTES))
    timed = artifact(last_run(), "config.json", tmp_path / "timed")
    assert (timed["minutes"], timed["replay"]) == (MINUTES, None)


def test_run_whose_budget_is_too_short_trains_one_step(
    eyevsai: Eyevsai, workplace: Path, tmp_path: Path
) -> None:
    done = eyevsai("train", "--dataset", "stripes", *SMALL, "--minutes", "0.05")
    assert "is too short for one epoch" in done.stderr
    (steps,) = artifact(last_run(), "schedule.json", tmp_path)["positions"]
    assert len(steps) >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "3"), f"--epochs {CONTRADICTION}"),
        (("--model", "transfer", "--fine-tune-epochs", "2"), f"--fine-tune-epochs {CONTRADICTION}"),
    ],
)
@pytest.mark.parametrize("command", ["train", "tune"])
def test_number_of_epochs_beside_a_time_budget_is_refused(
    eyevsai: Eyevsai, workplace: Path, command: str, options: tuple[str, ...], message: str
) -> None:
    call = (command, "--dataset", "stripes", "--minutes", "1", *options)
    assert message in eyevsai(*call, code=2).stderr


def test_run_without_a_schedule_cannot_be_replayed(eyevsai: Eyevsai, workplace: Path) -> None:
    eyevsai("train", "--dataset", "stripes", *SMALL, "--epochs", "1")
    options = ("--minutes", "1", "--replay", last_run().info.run_id)
    error = eyevsai("train", "--dataset", "stripes", *SMALL, *options, code=2).stderr
    assert "has no artifact schedule.json" in error
    options = ("--minutes", "1", "--replay", "nope")
    error = eyevsai("train", "--dataset", "stripes", *SMALL, *options, code=2).stderr
    assert "There is no run 'nope'" in error


def test_each_trial_has_the_time_budget(eyevsai: Eyevsai, workplace: Path, tmp_path: Path) -> None:
    settings = [each for each in SMALL if each not in ("--tuned", "never")]
    study = (*("--n-trials", "2", "--sampler", "random", "--pruner", "none"), "--minutes", "0.1")
    eyevsai("tune", "--dataset", "stripes", *settings, *study)
    trial = last_run("trial")
    assert trial.info.status == "FINISHED"
    assert artifact(trial, "time_budget.json", tmp_path)["plan"]["budget_s"] == 6


def test_family_without_epochs_has_no_time_budget(eyevsai: Eyevsai, workplace: Path) -> None:
    call = ("train", "--dataset", "stripes", "--model", "shallow", "--minutes", "1")
    assert "--minutes is a setting of deep_v1" in eyevsai(*call, code=2).stderr


@pytest.mark.slow
@pytest.mark.processes("rank 1 is a process of its own")
def test_ranks_end_together_and_are_repeated(
    eyevsai: Eyevsai, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the process of rank 1
    options = ("--dataset", "stripes", *SMALL, "--devices", "2", "--minutes", "0.4")
    eyevsai("train", *options)
    run = last_run()
    assert run.info.status == "FINISHED"
    eyevsai("train", "--config", f"run:{run.info.run_id}")
    records = [
        artifact(each, "schedule.json", tmp_path / str(number))
        for number, each in enumerate((run, last_run()))
    ]
    assert records[0] == records[1]
    assert weights("1") == weights("2")


@pytest.fixture
def busy_process() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("busy_process")
@pytest.mark.processes("another process uses a core all the time")
def test_timed_run_ends_on_time_beside_a_busy_process(eyevsai_process: Eyevsai) -> None:
    arguments = ("train", "--dataset", "digits", "--tuned", "never", "--minutes", "1")
    start = time.monotonic()
    eyevsai_process(*arguments, OMP_NUM_THREADS="2")
    assert time.monotonic() - start == pytest.approx(60, rel=0.05)
