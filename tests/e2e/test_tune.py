"""Tuning, as a person starts it, interrupts it and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from eyevsai.tracking import run_lifecycle
from eyevsai.training.trainer import Trainer
from tests.conftest import ROOT, Eyevsai, experiments

FOREST = {
    "model": "shallow",
    "variation": "rf_hog_lbp",
    "image_size": 32,
    "n_estimators": 5,
    "threads": 1,
}
DEEP = {
    "model": "deep_v1",
    "image_size": 32,
    "width": 4,
    "epochs": 4,
    "batch_size": 16,
    "threads": 1,
    "head_units": 0,
}


def flags(**settings: object) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def study_and_trials():  # type: ignore[no-untyped-def]
    runs = MlflowClient().search_runs(experiments())
    parents = [run for run in runs if run.data.tags.get("eyevsai.job") == "tune"]
    trials = [run for run in runs if run.data.tags.get("eyevsai.job") == "trial"]
    return parents, sorted(trials, key=lambda run: int(run.data.tags["trial"]))


def test_tune_logs_a_study_and_train_uses_it_by_name(
    entry_point: Eyevsai, stripes: Path, eyevsai: Eyevsai
) -> None:
    given = [
        part
        for name, value in {**FOREST, "data": stripes, "n_trials": 3}.items()
        for part in ("-P", f"{name}={value}")
    ]
    assert "study stripes-shallow-rf_hog_lbp: 3 complete" in entry_point("tune", *given).stdout
    (parent,), trials = study_and_trials()
    assert (parent.info.status, len(trials)) == ("FINISHED", 3)
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.inputs.dataset_inputs[0].dataset.name for run in (parent, *trials)} == {"stripes"}
    best = json.loads(
        Path(MlflowClient().download_artifacts(parent.info.run_id, "best.json")).read_text()
    )
    accuracies = [run.data.metrics["best_valid_accuracy"] for run in trials]
    assert best["accuracy"] == parent.data.metrics["best_valid_accuracy"] == max(accuracies)
    names = {artifact.path for artifact in MlflowClient().list_artifacts(parent.info.run_id)}
    assert {"best.json", "trials.json", "space.json", "study.html", "plots"} <= names
    table = json.loads(
        Path(MlflowClient().download_artifacts(parent.info.run_id, "trials.json")).read_text()
    )
    assert len(table["data"]) == 3
    assert not MlflowClient().search_registered_models()  # trials register nothing

    train = ("train", *flags(model="shallow", variation="rf_hog_lbp", data=stripes, threads=1))
    few = "it has 3 complete trials of the 10 required"
    taken = eyevsai(*train, "--tuned", parent.info.run_id).stderr
    assert f"--tuned auto would not use it: {few}" in taken
    assert f"run {parent.info.run_id}" in taken
    trained = next(
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags["eyevsai.job"] == "train"
    )
    assert trained.data.tags["tuned_from"] == parent.info.run_id
    assert "n_estimators 200 -> 5" in trained.data.tags["tuned_settings"]
    for name, value in best["settings"].items():
        assert trained.data.params[name] == ("" if value is None else str(value))
    eyevsai(*train, "--max-depth", "7", "--tuned", parent.data.tags["study"])
    assert few not in eyevsai(*train, "--tuned", "never").stderr
    eyevsai(*train, "--max-depth", "", "--tuned", "never")
    unlimited, other, explicit, _ = (
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags["eyevsai.job"] == "train"
    )
    assert (explicit.data.params["max_depth"], explicit.data.params["n_estimators"]) == ("7", "5")
    assert unlimited.data.params["max_depth"] == ""
    assert (other.data.params["n_estimators"], other.data.tags.get("tuned_from")) == ("200", None)
    assert (
        "has no finished study or run of this name"
        in eyevsai(*train, "--tuned", "nothing", code=2).stderr
    )


def last_training():  # type: ignore[no-untyped-def]
    return next(
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags["eyevsai.job"] == "train"
    )


def test_toy_study_leaves_the_defaults_of_train(eyevsai: Eyevsai, stripes: Path) -> None:
    small = {**DEEP, "data": stripes}
    done = eyevsai("tune", *flags(**{**small, "epochs": 1}, n_trials=2))
    (parent,), (first, _) = study_and_trials()
    trained = eyevsai("train", *flags(**small)).stderr
    refused = [line for line in trained.splitlines() if "is not used" in line]
    assert len(refused) == 1
    assert (
        "Study stripes-deep_v1-standard is not used: it has 2 complete trials of the 10 required; "
        "its trials have 1 epoch, less than half of the 4 training epochs" in refused[0]
    )
    run = last_training()
    assert {"tuned_from", "tuned_settings"}.isdisjoint(run.data.tags)
    names = ("lr", "optimizer", "weight_decay", "label_smoothing", "dropout", "epochs")
    defaults = {name: run.data.params[name] for name in names}
    assert defaults == {
        "lr": "0.006",
        "optimizer": "muon",
        "weight_decay": "0.05",
        "label_smoothing": "0.1",
        "dropout": "0.2",
        "epochs": "4",
    }
    # trial 0
    assert {name: first.data.params[name] for name in names} == {**defaults, "epochs": "1"}
    assert (
        parent.data.metrics["trials/default_accuracy"] == first.data.metrics["best_valid_accuracy"]
    )
    assert f"the defaults (trial 0): {first.data.metrics['best_valid_accuracy']:.4f}" in done.stderr


def test_study_that_is_better_than_the_defaults_is_used(
    eyevsai: Eyevsai, stripes: Path, tmp_path: Path
) -> None:
    space = tmp_path / "space.toml"
    space.write_text("lr = [1e-6, 0.006, 0.01, 0.03]\noptimizer = 'muon'\n")
    small = {**DEEP, "data": stripes, "crop_scale": 0.35}
    eyevsai("tune", *flags(**{**small, "epochs": 2}, n_trials=10, space=space))
    (parent,), trials = study_and_trials()
    accuracies = [run.data.metrics["best_valid_accuracy"] for run in trials]
    assert max(accuracies) > accuracies[0]
    best = trials[accuracies.index(max(accuracies))].data.params
    said = [
        line
        for line in eyevsai("train", *flags(**small)).stderr.splitlines()
        if " of study " in line
    ]
    run = last_training()
    assert run.data.tags["tuned_from"] == parent.info.run_id
    changes = run.data.tags["tuned_settings"]
    assert f"dropout 0.2 -> {float(best['dropout']):.4g}" in changes.split(", ")
    assert "epochs" not in changes
    assert len(said) == 1
    assert (
        f"Using the settings of study stripes-deep_v1-standard (run {parent.info.run_id}; "
        f"10 complete trials, valid accuracy {max(accuracies):.4f}, defaults "
        f"{accuracies[0]:.4f}): {changes}."
    ) in said[0]
    assert (run.data.params["dropout"], run.data.params["epochs"]) == (best["dropout"], "4")
    assert (
        "is not used: its trials have 2 epochs"
        in eyevsai("train", *flags(**{**small, "epochs": 5})).stderr
    )
    assert "tuned_from" not in last_training().data.tags


def test_trials_that_do_badly_are_given_up(eyevsai: Eyevsai, stripes: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("lr = [1e-6, 3e-2]\noptimizer = 'muon'\n")
    done = eyevsai("tune", *flags(**{**DEEP, "epochs": 9}, data=stripes, n_trials=12, space=space))
    (parent,), trials = study_and_trials()
    pruned = [run for run in trials if run.info.status == "KILLED"]
    finished = [run for run in trials if run.info.status == "FINISHED"]
    assert (len(pruned) + len(finished), len(pruned) > 0, len(finished) > 0) == (12, True, True)
    assert f"{len(finished)} complete, {len(pruned)} pruned" in done.stdout
    assert "Trial 0 uses the defaults, moved into the search space: lr 0.006 -> 0.03" in done.stderr
    assert {run.data.tags["eyevsai.termination_reason"] for run in pruned} == {"pruner"}
    epochs = {
        run.info.run_id: len(MlflowClient().get_metric_history(run.info.run_id, "valid/loss"))
        for run in trials
    }
    assert all(epochs[run.info.run_id] < 9 for run in pruned)
    assert all(epochs[run.info.run_id] == 9 for run in finished)
    assert parent.data.metrics["trials/pruned"] == len(pruned)


@pytest.mark.slow
def test_a_study_ends_when_one_is_good_enough_or_time_is_up(
    eyevsai: Eyevsai, stripes: Path
) -> None:
    tune = ("tune", *flags(**FOREST, data=stripes, n_trials=5))
    assert "no trial started" in eyevsai(*tune, "--timeout", "0", code=1).stderr
    assert ": 1 complete" in eyevsai(*tune, "--target-value", "0.1").stdout
    assert ": 5 complete" in eyevsai(*tune).stdout


@pytest.mark.requirement(11)
@pytest.mark.slow
def test_same_seed_gives_the_same_study(eyevsai: Eyevsai, stripes: Path) -> None:
    tune = ("tune", *flags(**{**DEEP, "epochs": 1}, data=stripes, n_trials=4, pruner="none"))
    for name in ("first", "second"):
        eyevsai(*tune, "--study", name)
    eyevsai(*tune, "--study", "other", "--seed", "1")
    _, trials = study_and_trials()
    rows: dict[str, list[object]] = {"first": [], "second": [], "other": []}
    for run in trials:
        metrics = run.data.metrics
        rows[run.data.tags["study"]].append(
            (run.data.params, metrics["train/loss"], metrics["best_valid_accuracy"])
        )
    assert len(rows["first"]) == 4
    assert rows["first"] == rows["second"]
    assert rows["first"] != rows["other"]


def test_trials_fail_one_by_one(eyevsai: Eyevsai, stripes: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("lr = [1e-6, 3e-2]\noptimizer = 'sgd'\nattention = 1\n")
    tune = ("tune", *flags(**DEEP, data=stripes, n_trials=6, pruner="median", space=space))
    assert "attention is not a setting of this model" in eyevsai(*tune, code=2).stderr
    space.write_text("lr = [1e-6, 3e-2]\noptimizer = 'sgd'\n")
    done = eyevsai(*tune, "--trial-timeout", "0", code=1)
    assert "6 of 6: The trial took longer than --trial-timeout 0" in done.stderr
    (parent,), trials = study_and_trials()
    assert {run.info.status for run in (parent, *trials)} == {"FAILED"}
    assert all("--trial-timeout" in run.data.tags["error"] for run in trials)
    assert "its inputs differ" in eyevsai(*tune, "--dropout", "0.5", code=2).stderr
    assert "1 changed (split)" in eyevsai(*tune, "--split-seed", "1", code=2).stderr


def test_a_failed_trial_is_reported_once(eyevsai: Eyevsai, stripes: Path) -> None:
    tune = ("tune", *flags(**DEEP, data=stripes, n_trials=1, trial_timeout=0))
    done = eyevsai(*tune, code=1)
    reason = "The trial took longer than --trial-timeout 0."
    lines = [line for line in done.stderr.splitlines() if "--trial-timeout" in line]
    assert lines == [
        f"Trial 0 failed (0 of 1 remaining): {reason}",
        "Error: No trial of study stripes-deep_v1-standard has a result. 1 of 1: " + reason,
    ]
    _, (trial,) = study_and_trials()
    log_file = Path(MlflowClient().download_artifacts(trial.info.run_id, "training.log"))
    assert f"The run failed: {reason}" in log_file.read_text()


def write_space(folder: Path, text: str) -> Path:
    path = folder / "space.toml"
    path.write_text(text)
    return path


def test_a_grid_ends_before_n_trials(eyevsai: Eyevsai, stripes: Path, tmp_path: Path) -> None:
    space = write_space(
        tmp_path, "max_depth = [10, 20]\nmin_samples_leaf = 1\nreduction = 'none'\n"
    )
    tune = ("tune", *flags(**FOREST, data=stripes, sampler="grid", n_trials=9, space=space))
    done = eyevsai(*tune)
    assert "Grid of 2 points." in done.stderr
    assert "The grid of 2 points is complete." in done.stderr
    assert ": 2 complete" in done.stdout
    (parent,), trials = study_and_trials()
    assert (parent.info.status, parent.data.tags["grid_points"]) == ("FINISHED", "2")
    assert parent.data.tags["grid_complete"] == "true"
    assert sorted(run.data.params["max_depth"] for run in trials) == ["10", "20"]
    assert ": 2 complete" in eyevsai(*tune).stdout  # there is nothing to resume
    assert len(study_and_trials()[1]) == 2


def test_a_grid_larger_than_n_trials_is_sampled(
    eyevsai: Eyevsai, stripes: Path, tmp_path: Path
) -> None:
    done = eyevsai("tune", *flags(**FOREST, data=stripes, sampler="grid", n_trials=2))
    assert "Grid of 492 points, more than --n-trials 2: " in done.stderr
    assert "Narrow the grid with --space" in done.stderr
    (parent,), trials = study_and_trials()
    assert (len(trials), parent.data.tags["grid_complete"]) == (2, "false")


def test_no_batch_size_of_the_space_loses_a_trial(
    eyevsai: Eyevsai, stripes: Path, tmp_path: Path
) -> None:
    space = write_space(tmp_path, "batch_size = [8, 64, 128]\nlr = 0.003\n")
    one_epoch = {name: value for name, value in DEEP.items() if name != "batch_size"}
    tune = flags(**{**one_epoch, "epochs": 1}, data=stripes, n_trials=6, sampler="random")
    done = eyevsai("tune", *tune, "--space", str(space))
    assert done.stderr.count("larger than the train split of 42 images") == 1
    assert "The space has a batch_size of 64 and 128" in done.stderr
    assert ": 6 complete" in done.stdout
    _, trials = study_and_trials()
    assert {run.data.params["batch_size"] for run in trials} == {"8", "42"}


def test_points_whose_settings_conflict_are_skipped(
    eyevsai: Eyevsai, stripes: Path, tmp_path: Path
) -> None:
    space = write_space(tmp_path, "hog_cells = [8, 32]\nmax_depth = [10, 20]\n")
    small = {**FOREST, "min_samples_leaf": 1, "reduction": "none"}
    tune = ("tune", *flags(**small, data=stripes, n_trials=9, space=space, sampler="grid"))
    done = eyevsai(*tune)
    assert "points of the search space that were checked cannot be trained" in done.stderr
    assert "--image-size 32 is too small for --hog-cells 32" in done.stderr
    assert ": 2 complete" in done.stdout
    (parent,), trials = study_and_trials()
    assert {run.data.params["hog_cells"] for run in trials} == {"8"}
    assert parent.data.tags["grid_complete"] == "true"
    space.write_text("hog_cells = [24, 32]\n")
    done = eyevsai(*tune, "--study", "other", code=2)
    assert "No point of the search space can be trained. --image-size 32" in done.stderr
    assert len(study_and_trials()[0]) == 1


def test_the_values_of_the_space_are_checked_and_not_the_defaults(
    eyevsai: Eyevsai, stripes: Path, tmp_path: Path
) -> None:
    space = write_space(tmp_path, "batch_size = [9, 18]\nlr = 0.003\n")
    small = {name: value for name, value in DEEP.items() if name != "batch_size"}
    tune = flags(**{**small, "epochs": 1, "grad_accum_steps": 3}, data=stripes, n_trials=2)
    assert ": 2 complete" in eyevsai("tune", *tune, "--space", str(space)).stdout


@pytest.mark.slow
def test_killed_study_of_two_processes_resumes(
    eyevsai_process: Eyevsai, workplace: Path, stripes: Path
) -> None:
    tune = [
        "tune",
        *flags(**{**DEEP, "epochs": 12}, data=stripes, n_trials=8, parallel_jobs=2, pruner="none"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "eyevsai", *tune],
        cwd=workplace,
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while (
        time.monotonic() < deadline
        and sum(run.info.status == "FINISHED" for run in study_and_trials()[1]) < 2
    ):
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = eyevsai_process(*tune)
    assert "Resuming study" in done.stderr
    (parent,), trials = study_and_trials()
    assert parent.info.status == "FINISHED"
    numbers = [int(run.data.tags["trial"]) for run in trials]
    assert len(numbers) == len(set(numbers))
    finished = [run for run in trials if run.info.status == "FINISHED"]
    assert len(finished) == 8
    assert not [run for run in trials if run.info.status == "RUNNING"]
    assert parent.data.metrics["best_valid_accuracy"] == max(
        run.data.metrics["best_valid_accuracy"] for run in finished
    )
    assert "8 complete" in done.stdout


@pytest.mark.slow
def test_interrupted_study_runs_its_trial_again_after_sigint(
    workplace: Path, eyevsai: Eyevsai, stripes: Path
) -> None:
    tune = ["tune", *flags(**{**DEEP, "epochs": 60}, data=stripes, n_trials=2, pruner="none")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    process = subprocess.Popen(
        [sys.executable, "-m", "eyevsai", *tune],
        cwd=workplace,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(
        "valid/loss" in run.data.metrics for run in study_and_trials()[1]
    ):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    (parent,), trials = study_and_trials()
    assert {run.info.status for run in (parent, trials[-1])} == {"KILLED"}
    assert "2 complete" in eyevsai(*tune).stdout


def test_interrupted_study_runs_its_trial_again(
    eyevsai: Eyevsai, stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = ["tune", *flags(**{**DEEP, "epochs": 2}, data=stripes, n_trials=2, pruner="none")]
    steps, step = [], Trainer._step

    def interrupt(self: Trainer, *arguments: Any) -> None:
        steps.append(1)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupt)
        stderr = eyevsai(*tune, code=130).stderr
    hints = [line for line in stderr.splitlines() if "Interrupted." in line]
    assert len(hints) == 1
    assert hints[0].endswith("The same command resumes the study.")
    (parent,), trials = study_and_trials()
    assert {run.info.status for run in (parent, *trials)} == {"KILLED"}
    assert "2 complete" in eyevsai(*tune).stdout
    assert [run.info.status for run in study_and_trials()[1]] == ["KILLED", "FINISHED", "FINISHED"]


def test_trial_whose_run_had_ended_counts_when_the_study_is_interrupted(
    eyevsai: Eyevsai, stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = ["tune", *flags(**{**DEEP, "epochs": 1}, data=stripes, n_trials=2, pruner="none")]
    ends, end = [], run_lifecycle._end

    def terminate(*arguments: Any) -> str:
        ends.append(1)
        if len(ends) == 1:
            signal.raise_signal(signal.SIGTERM)
        return end(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run_lifecycle, "_end", terminate)
        eyevsai(*tune, code=143)
    assert "2 complete" in eyevsai(*tune).stdout
    assert [run.info.status for run in study_and_trials()[1]] == ["FINISHED", "FINISHED"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="no ray: pip install -e '.[ray]'")
def test_trials_run_on_a_ray_cluster(eyevsai_process: Eyevsai, stripes: Path) -> None:
    tune = (
        "tune",
        *flags(
            **{**DEEP, "epochs": 2},
            data=stripes,
            n_trials=4,
            parallel_jobs=2,
            executor="ray",
            cpus_per_job=1,
        ),
    )
    assert ": 4 complete" in eyevsai_process(*tune).stdout
    (parent,), trials = study_and_trials()
    assert [run.info.status for run in (parent, *trials)] == ["FINISHED"] * 5
    # which are Ray's
    assert parent.data.tags["eyevsai.process"] not in {
        run.data.tags["eyevsai.process"] for run in trials
    }


def test_help_lists_what_a_study_takes(eyevsai: Eyevsai) -> None:
    text = eyevsai("tune", "--model", "shallow", "--help").stdout
    assert all(
        flag in text for flag in ("--n-trials", "--sampler", "--space", "--reduction", "--data")
    )
    assert not any(flag in text for flag in ("--resume", "--tuned", "--checkpoint-every-s"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--n-trials", "0"), "--n-trials 0 is not allowed"),
        (("--study", "a/b"), "it takes letters"),
        (("--storage", "sqlite:////proc/none.db"), "cannot be used"),
        (("--resume", "auto"), "To resume a study"),
        (("--sampler", "best"), "--sampler 'best' is not allowed"),
        (("--n-trails", "3"), "There is no option --n-trails"),
    ],
)
def test_bad_input_is_told(
    eyevsai: Eyevsai, stripes: Path, given: tuple[str, ...], message: str
) -> None:
    done = eyevsai("tune", *flags(**FOREST, data=stripes), *given, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
