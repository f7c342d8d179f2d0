"""Cleaning up as a person does it: a plan, a question, and what was said is what is done."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.registry.models import open_registry
from tests.conftest import ROOT, Eyevsai, draw_image, eyevsai_in
from tests.faults.runs import INJECT
from tests.journeys.conftest import MlflowRun, bring_home

pytestmark = [pytest.mark.xdist_group("cleanup"), pytest.mark.timeout(600)]
NAME = "stripes-deep_v1-standard"
SMALL = ("--image-size", "32", "--batch-size", "8", "--width", "4", "--threads", "1", "--epochs", "1")
OLD_MS = 30 * 86_400_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, template_store: Path, stripes: Path) -> Path:
    """A folder with a store of two versions, a failed run and a study."""
    folder = tmp_path_factory.mktemp("cleanup")
    env = {"EYEVSAI_CACHE": str(folder / "cache"), "EYEVSAI_STATE": str(folder / "state")}
    call = eyevsai_in(folder)
    for _ in range(2):
        call("train", "--data", str(stripes), *SMALL, **env)
    fault = {"FAULT": "nan:2", "PYTHONPATH": f"{INJECT}{os.pathsep}{ROOT}"}
    call("train", "--data", str(stripes), *SMALL, code=1, **env, **fault)
    shallow = ("--model", "shallow", "--variation", "rf_hog_lbp", "--n-estimators", "5", "--image-size", "32")
    for study in ("first", "second"):
        call("tune", *shallow, "--data", str(stripes), "--n-trials", "1", "--threads", "1", "--study", study, **env)
    return folder


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in which its store is at home."""
    place = bring_home(trained, tmp_path / "project", monkeypatch)
    monkeypatch.setenv("EYEVSAI_STATE", str(place / "state"))
    monkeypatch.setenv("EYEVSAI_CACHE", str(place / "cache"))
    return place


def numbers() -> list[int]:
    return sorted(int(version.version) for version in MlflowClient().search_model_versions(f"name = '{NAME}'"))


def test_mlflow_run_cleans_up(mlflow_run: MlflowRun, eyevsai: Eyevsai, workplace: Path) -> None:
    said = mlflow_run("cleanup", "-P", "keep=1", "-P", "dry_run=true").stdout
    assert f"version  models:/{NAME}/1" in said
    assert numbers() == [1, 2]
    said = mlflow_run("cleanup", "-P", "keep=1", "-P", "yes=true").stdout
    assert "deleted 1 of 1 items" in said
    assert numbers() == [2]
    package.load(f"models:/{NAME}/2").predict(draw_image(0, 0))
    calls = MlflowClient().search_runs(["0"], "tags.job = 'cleanup'")
    assert [call.info.status for call in calls] == ["FINISHED"] * 2
    (entry,) = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)
    assert (entry["action"], entry["versions"], entry["status"]) == ("cleanup", "1", "FINISHED")


def test_a_dry_run_lists_exactly_what_a_run_deletes(eyevsai_here: Eyevsai, workplace: Path) -> None:
    client = MlflowClient()
    for run in client.search_runs(["0"], "tags.job = 'tune'"):
        client.set_terminated(run.info.run_id, "FINISHED", run.info.end_time - OLD_MS)
    (workplace / "mlruns" / "0" / ("f" * 32)).mkdir()
    (workplace / "mlruns" / "0" / ("f" * 32) / "left").write_bytes(b"x" * 12345)
    before = sum(path.stat().st_size for root in ("mlruns", "cache", "state", "studies")
                 for path in (workplace / root).rglob("*") if path.is_file())  # fmt: skip
    first = eyevsai_here("cleanup", "--all", "--keep", "1", "--dry-run").stdout
    assert len(numbers()) == 2
    plan = json.loads(eyevsai_here("cleanup", "--all", "--keep", "1", "--dry-run", "--json").stdout)["plan"]
    assert {item["kind"] for item in plan["items"]} == {"version", "failed run", "study", "cache", "orphan"}
    assert [item["what"].split(" (")[0] for item in plan["items"] if item["kind"] == "study"] == ["study first"]
    said = eyevsai_here("cleanup", "--all", "--keep", "1", "--yes").stdout
    *listed, last = said.splitlines()
    assert listed == first.splitlines()
    after = sum(path.stat().st_size for root in ("mlruns", "cache", "state", "studies")
                for path in (workplace / root).rglob("*")
                if path.is_file() and "eyevsai-registry" not in str(path) and path.name != "plan.json")  # fmt: skip
    freed = int(last.split("freed ")[1].split(" bytes")[0].replace(",", ""))
    assert freed == plan["bytes"]
    assert abs(before - after - freed) < 100  # locks of the cache, which are empty, and the record of this call
    assert not (workplace / "studies" / "first.journal").exists()
    assert (workplace / "studies" / "second.journal").exists()
    assert eyevsai_here("cleanup", "--all", "--keep", "1", "--yes").stdout == "Nothing to delete.\n"
    package.load(f"models:/{NAME}/2").predict(draw_image(0, 0))


def test_without_yes_it_asks_a_person_and_refuses_a_program(eyevsai_here: Eyevsai, workplace: Path) -> None:
    refused = eyevsai_here("cleanup", "--keep", "1", code=2)
    assert f"models:/{NAME}/1" in refused.stdout
    assert "eyevsai cleanup --keep 1" in refused.stderr
    assert "--yes" in refused.stderr
    for answer, left in (("n", [1, 2]), ("y", [2])):
        assert "Delete 1 items?" in answer_question(workplace, answer)
        assert numbers() == left


def answer_question(workplace: Path, answer: str) -> str:
    """What `cleanup --keep 1` says on a terminal where somebody types `answer`."""
    person, terminal = pty.openpty()
    job = subprocess.Popen(
        [sys.executable, "-m", "eyevsai", "cleanup", "--keep", "1"], cwd=workplace, stdin=terminal,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.write(person, f"{answer}\n".encode())
    said = job.communicate(timeout=200)[0]
    os.close(person)
    os.close(terminal)
    return said


def test_pinned_and_aliased_versions_stay_and_why_is_said(eyevsai_here: Eyevsai, workplace: Path) -> None:
    eyevsai_here("registry", "pin", NAME, "1", "--reason", "the paper")
    open_registry(os.environ["MLFLOW_TRACKING_URI"]).set_registered_model_alias(NAME, "best", "2")
    said = eyevsai_here("cleanup", "--keep", "0", "--including-newest", "--dry-run", "--verbose").stdout
    assert f"stays: models:/{NAME}/1: pinned: the paper" in said
    assert f"stays: models:/{NAME}/2: has the alias best" in said
    assert said.endswith("Nothing to delete.\n")
    eyevsai_here("registry", "unpin", NAME, "1")
    eyevsai_here("cleanup", "--keep", "0", "--including-newest", "--yes")
    assert numbers() == [2]


def test_what_was_begun_in_the_ui_is_left_to_mlflow(eyevsai_here: Eyevsai, workplace: Path) -> None:
    client = MlflowClient()
    run_id = client.get_model_version(NAME, "1").run_id
    client.delete_model_version(NAME, "1")
    client.delete_run(run_id)
    said = eyevsai_here("cleanup", "--orphans", "--dry-run", "--verbose").stdout
    assert "stays: 1 runs that were deleted in MLflow's UI: mlflow gc frees them" in said
    assert run_id not in said


def test_a_cleanup_of_nothing_in_particular_says_what_there_is(eyevsai_here: Eyevsai) -> None:
    said = eyevsai_here("cleanup", code=2).stderr
    assert "--old-versions, --failed-runs, --tuning, --cache, --orphans" in said
    assert "--including-newest" in eyevsai_here("cleanup", "--keep", "0", code=2).stderr
