"""`mlflow run PROJECT` from another folder: relative paths refer to that folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.cli import entrypoint
from tests.conftest import ROOT, TRAINED, Eyevsai, copy_store, experiments

NAME = TRAINED["deep_v1"]


def run_project(folder: Path, entry: str, *parameters: str) -> subprocess.CompletedProcess[str]:
    """Run `mlflow run` of this checkout in `folder`, with a relative tracking URI."""
    words = [word for parameter in parameters for word in ("-P", parameter)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        ["mlflow", "run", str(ROOT), "-e", entry, *words, "--env-manager", "local"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.processes("`mlflow run` itself: the folder of its caller is what is tested")
def test_relative_paths_refer_to_the_folder_of_the_caller(
    tmp_path: Path, template_store: Path
) -> None:
    copy_store(template_store, tmp_path)
    result = run_project(tmp_path, "train", "data=pics")
    assert f"There is no folder pics in {tmp_path}." in result.stderr
    (call,) = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(
        experiments(MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}"))
    )
    assert (call.info.run_name, call.info.status) == ("train", "FAILED")
    assert "There is no folder pics" in call.data.tags["error"]


def test_children_import_the_project_after_the_change_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, caller = tmp_path / "project", tmp_path / "caller"
    project.mkdir()
    caller.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("PYTHONPATH", "other")
    monkeypatch.setattr(entrypoint, "_find_caller_dir", lambda module: caller)
    entrypoint.enter_caller_dir("entrypoints.train")
    assert Path.cwd() == caller
    assert os.environ["PYTHONPATH"] == f"{project}{os.pathsep}other"


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


@pytest.mark.parametrize(
    ("entry", "parameters", "name"),
    [
        ("promote", (f"name={NAME}", "version=1"), f"promote {NAME} 1"),
        ("promote", (f"name={NAME}", "version=77"), "promote"),
        ("cleanup", ("keep=3", "dry_run=true"), "cleanup"),
        ("report", ("models=nonsense",), "report"),
        ("data", ("dataset=nonsense",), "data"),
        ("evaluate", ("run=" + "0" * 32,), "evaluate"),
        ("export", ("run=" + "0" * 32,), "export"),
        ("tune", ("data=nowhere",), "tune"),
        ("train", ("resume=" + "0" * 32,), "train"),
    ],
)
def test_run_of_a_call_is_named_after_it(
    entry_point: Eyevsai, entry: str, parameters: tuple[str, ...], name: str
) -> None:
    client = MlflowClient()
    before = {run.info.run_id for run in client.search_runs(experiments(client))}
    words = [word for parameter in parameters for word in ("-P", parameter)]
    entry_point(entry, *words, code=0 if entry == "cleanup" else 1)
    (call,) = (
        run for run in client.search_runs(experiments(client)) if run.info.run_id not in before
    )
    assert call.info.run_name == name
    assert call.data.tags["eyevsai.job"] == entry


def test_run_of_a_recorded_call_is_deleted_later(
    entry_point: Eyevsai, eyevsai: Eyevsai, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyevsai.tracking.stale_runs.DELETE_STUBS_AFTER_S", -1.0)
    before = {run.info.run_id for run in MlflowClient().search_runs(experiments())}
    entry_point("promote", "-P", f"name={NAME}", "-P", "version=1", code=1)
    assert len(MlflowClient().search_runs(experiments())) == len(before) + 1
    eyevsai("registry", "reconcile", NAME)
    assert {run.info.run_id for run in MlflowClient().search_runs(experiments())} == before


def test_promotion_names_the_policy_file(eyevsai: Eyevsai, workplace: Path) -> None:
    default = workplace / "promotion.toml"
    promote = ("promote", NAME, "--version", "1")
    assert (
        f"There is no policy file {default}: the default policy" in eyevsai(*promote, code=1).stderr
    )
    default.write_text("floor = 0.99\n")
    assert f"Policy file: {default}" in eyevsai(*promote, code=1).stderr
    default.rename(workplace / "strict.toml")
    result = eyevsai(*promote, "--policy", "strict.toml", code=1)
    assert f"Policy file: {workplace / 'strict.toml'}" in result.stderr


def test_train_all_refuses_a_data_dir_without_datasets(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "empty").mkdir()
    models = ("--models", "deep_v1/standard")
    for name, problem in (("nowhere", "is not a folder"), ("empty", "has no datasets")):
        message = f"--data-dir {workplace / name} {problem}. Set --data-dir or EYEVSAI_DATA"
        assert message in eyevsai("train-all", "--data-dir", name, *models, code=2).stderr
        assert message in eyevsai("train-all", *models, code=2, EYEVSAI_DATA=name).stderr
