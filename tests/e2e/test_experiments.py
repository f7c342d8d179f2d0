"""Experiments that were deleted or do not exist: each command names the variable and the fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import TINY, TINY_NETWORK, TRAINED, Eyevsai
from tests.invoke import invoke

NAME = TRAINED["deep_v1"]
DELETED = (
    "The experiment {name} (id {number}), which {users} use by default, was deleted. Select "
    "another one with --experiment or MLFLOW_EXPERIMENT_NAME, or restore it with its runs: "
    "mlflow experiments restore -x {number}"
)
DEFAULT_DELETED = DELETED.format(
    name="Default", number=0, users="runs of several datasets, and those of `mlflow run`,"
)
DATASET_DELETED = DELETED.format(name="stripes", number=1, users="new runs of this dataset")


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


def doctor(eyevsai: Eyevsai, **env: str) -> dict[str, str]:
    checks = json.loads(eyevsai("doctor", "--json", code=None, **env).stdout)
    return {check["subject"]: check["text"] for check in checks if not check["ok"]}


@pytest.mark.parametrize(
    "command",
    [
        ("train", *TINY),
        ("tune", "--n-trials", "1", *TINY_NETWORK),
        ("train-all", "--datasets", "stripes", "--models", "deep_v1/standard"),
        ("evaluate", "--model-uri", f"models:/{NAME}/1"),
        ("export", "--model-uri", f"models:/{NAME}/1"),
    ],
    ids=lambda command: command[0],
)
def test_deleted_experiment_of_a_dataset_is_named_with_its_restoration(
    eyevsai: Eyevsai, workplace: Path, command: tuple[str, ...]
) -> None:
    client = MlflowClient()
    client.delete_experiment("1")
    data = ("--data", "data/stripes") if command[0] in ("train", "tune") else ()
    result = eyevsai(*command, *data, code=2)
    assert DATASET_DELETED in result.stderr
    assert "bug" not in result.stderr
    assert doctor(eyevsai) == {}
    assert [each.name for each in client.search_experiments()] == ["Default"]


@pytest.mark.processes("images are decoded in forks")
def test_deleted_default_experiment_is_named_where_it_is_used(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    shutil.copytree(workplace / "data" / "stripes", workplace / "data" / "others")
    MlflowClient().delete_experiment("0")
    sweep = ("train-all", "--models", "deep_v1/standard", "--evaluate", "false", *TINY_NETWORK)
    result = eyevsai(*sweep, code=2)
    assert DEFAULT_DELETED in result.stderr
    assert doctor(eyevsai) == {"experiment": DEFAULT_DELETED}
    eyevsai("train", "--data", "data/stripes", *TINY)  # in the experiment of its dataset


@pytest.mark.processes("images are decoded in forks")
def test_each_dataset_has_its_experiment(eyevsai: Eyevsai, workplace: Path) -> None:
    client, other = MlflowClient(), workplace / "elsewhere"
    other.mkdir()
    shutil.copytree(workplace / "data" / "stripes", workplace / "data" / "others")
    uri = f"sqlite:///{workplace / 'mlflow.db'}"
    data = str(workplace / "data" / "others")
    invoke(other, "train", "--data", data, *TINY, MLFLOW_TRACKING_URI=uri)
    experiments = {each.name: each for each in client.search_experiments()}
    assert experiments.keys() == {"Default", "stripes", "others"}
    # beside those of the store, whatever the current folder is
    assert experiments["others"].artifact_location == str(workplace / "mlruns" / "others")
    (run,) = client.search_runs([experiments["others"].experiment_id])
    assert run.info.run_name == "others-deep_v1-standard-1"
    eyevsai("train", "--data", data, *TINY, "--experiment", "stripes")
    names = [each.info.run_name for each in client.search_runs(["1"])]
    assert names.count("others-deep_v1-standard-1") == 1
    eyevsai("evaluate", "--run", run.info.run_id, "--corruption-images", "0")
    runs = client.search_runs([experiments["others"].experiment_id])
    assert {each.data.tags["eyevsai.job"] for each in runs} == {"train", "evaluate"}
    # `mlflow run` has selected one
    eyevsai("train", "--data", data, *TINY, MLFLOW_EXPERIMENT_ID="0")
    (run,) = client.search_runs(["0"])
    assert run.data.tags["dataset"] == "others"
    ranked = json.loads(eyevsai("registry", "best", "--dataset", "others", "--json").stdout)
    assert len(ranked) == 3  # wherever their runs are


@pytest.mark.processes("images are decoded in forks")
def test_runs_of_an_earlier_store_are_found_in_the_default_experiment(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    data = ("--data", "data/stripes")
    before = {"MLFLOW_EXPERIMENT_ID": "0"}  # as an earlier eyevsai did by default
    eyevsai("tune", "--study", "early", "--n-trials", "1", *data, *TINY_NETWORK, **before)
    (study,) = MlflowClient().search_runs(["0"], "tags.`eyevsai.job` = 'tune'")
    eyevsai("tune", "--study", "early", "--n-trials", "2", *data, *TINY_NETWORK)
    trials = MlflowClient().search_runs(["0"], "tags.`eyevsai.job` = 'trial'")
    assert {each.data.tags["mlflow.parentRunId"] for each in trials} == {study.info.run_id}
    assert len(trials) == 2  # beside their study
    said = eyevsai("train", *data, *TINY_NETWORK, "--tuned", "early").stderr
    assert f"Using the settings of study early (run {study.info.run_id}" in said


def test_experiment_of_a_variable_is_named_with_the_variable(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    client = MlflowClient()
    deleted = client.create_experiment("old")
    client.delete_experiment(deleted)
    train = ("train", "--data", "data/stripes", *TINY)
    for env, message in (
        ({"MLFLOW_EXPERIMENT_ID": "999"}, "no experiment 999, which MLFLOW_EXPERIMENT_ID=999"),
        ({"MLFLOW_EXPERIMENT_ID": "x"}, "no experiment x, which MLFLOW_EXPERIMENT_ID=x selects"),
        (
            {"MLFLOW_EXPERIMENT_NAME": "old"},
            f"old (id {deleted}), which --experiment or MLFLOW_EXPERIMENT_NAME selects, was "
            "deleted. Select another one with --experiment or MLFLOW_EXPERIMENT_NAME, or restore "
            f"it with its runs: mlflow experiments restore -x {deleted}",
        ),
        (
            {"MLFLOW_EXPERIMENT_ID": deleted},
            f"which MLFLOW_EXPERIMENT_ID={deleted} selects, was deleted",
        ),
    ):
        assert message in eyevsai(*train, code=2, **env).stderr
        assert message in doctor(eyevsai, **env)["experiment"]


def test_run_deleted_with_its_experiment_is_restored_with_it(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    run_id = MlflowClient().get_model_version(NAME, "1").run_id
    MlflowClient().delete_experiment("1")
    result = eyevsai("evaluate", "--run", run_id, code=2, MLFLOW_EXPERIMENT_NAME="other")
    assert (
        f"Run {run_id} was deleted with its experiment stripes (id 1). Restore them first: mlflow "
        "experiments restore -x 1"
    ) in result.stderr


def test_audit_log_is_read_and_continued_while_its_experiment_is_deleted(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/1", "--corruption-images", "0")
    eyevsai("promote", NAME, "--version", "1")
    client = MlflowClient()
    audit = client.get_experiment_by_name("eyevsai-registry").experiment_id
    client.delete_experiment(audit)
    assert f"mlflow experiments restore -x {audit}" in doctor(eyevsai)["experiment"]
    MlflowClient().delete_experiment("1")  # a promotion creates no run in it
    eyevsai("promote", NAME, "--version", "1", "--to", "staging", code=2)
    eyevsai("promote", NAME, "--version", "1", "--to", "archived")
    log = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)
    assert [(entry["action"], entry["status"]) for entry in log] == [
        ("promote", "FINISHED"),
        ("archive", "FINISHED"),
    ]
    assert client.get_experiment(audit).lifecycle_stage == "active"


def test_log_that_was_deleted_for_good_is_a_stated_cause(eyevsai: Eyevsai, workplace: Path) -> None:
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/1", "--corruption-images", "0")
    eyevsai("promote", NAME, "--version", "1")
    client = MlflowClient()
    audit = client.get_experiment_by_name("eyevsai-registry").experiment_id
    for run in client.search_runs([audit]):
        client.delete_run(run.info.run_id)
    eyevsai("registry", "reconcile", NAME)
    (entry,) = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)
    assert entry["reason"] == (
        "found: a command was interrupted, or the model was renamed, or the audit log was deleted"
    )
