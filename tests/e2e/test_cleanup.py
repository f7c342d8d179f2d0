"""Cleaning up as a person does it: a plan, a question, and what was said is what is done."""

from __future__ import annotations

import io
import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.registry.entities import open_registry
from eyevsai.store.ownership import MARK, write_mark
from tests.conftest import (
    SMALL_FOREST,
    TINY_NETWORK,
    Eyevsai,
    copy_store,
    copy_trained,
    draw_image,
    experiments,
    once,
)
from tests.invoke import invoke
from tests.robustness.runs import inject

NAME = "stripes-deep_v1-standard"
OLD_MS = 30 * 86_400_000


@pytest.fixture(scope="session")
def used_store(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, stripes: Path
) -> Path:
    """Return a folder with a store of two versions, a failed run and two studies."""

    def build(folder: Path) -> None:
        copy_store(template_store, folder)
        env = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "EYEVSAI_CACHE": str(folder / "cache"),
            "EYEVSAI_STATE": str(folder / "state"),
        }
        train = partial(invoke, folder, "train", "--data", str(stripes), *TINY_NETWORK, **env)
        for _ in range(2):
            train()
        with pytest.MonkeyPatch.context() as patch:
            inject(patch, "nan:2")
            train(code=1)
        for study in ("first", "second"):
            invoke(
                folder,
                "tune",
                *SMALL_FOREST,
                "--data",
                str(stripes),
                "--n-trials",
                "1",
                "--threads",
                "1",
                "--study",
                study,
                **env,
            )

    return once(tmp_path_factory, "used", build)


@pytest.fixture
def workplace(used_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, as the current folder."""
    project = copy_trained(used_store, tmp_path / "project", monkeypatch)
    monkeypatch.setenv("EYEVSAI_STATE", str(project / "state"))
    monkeypatch.setenv("EYEVSAI_CACHE", str(project / "cache"))
    for store in (project / "state").rglob("store.json"):  # run folders name their store
        store.write_text(store.read_text().replace(str(used_store), str(project)))
    return project


def numbers() -> list[int]:
    return sorted(
        int(version.version) for version in MlflowClient().search_model_versions(f"name = '{NAME}'")
    )


def test_entry_point_cleans_up(entry_point: Eyevsai, eyevsai: Eyevsai, workplace: Path) -> None:
    said = entry_point("cleanup", "-P", "keep=1", "-P", "dry_run=true").stdout
    assert f"version  models:/{NAME}/1" in said
    assert numbers() == [1, 2]
    said = entry_point("cleanup", "-P", "keep=1", "-P", "yes=true").stdout
    assert "deleted 1 of 1 items" in said
    assert numbers() == [2]
    package.load(f"models:/{NAME}/2").predict(draw_image(0, 0))
    calls = MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'cleanup'")
    assert [call.info.status for call in calls] == ["FINISHED"] * 2
    (entry,) = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)
    assert (entry["action"], entry["versions"], entry["status"]) == ("cleanup", "1", "FINISHED")


def test_a_dry_run_lists_exactly_what_a_run_deletes(eyevsai: Eyevsai, workplace: Path) -> None:
    client = MlflowClient()
    for run in client.search_runs(experiments(client), "tags.`eyevsai.job` = 'tune'"):
        client.set_terminated(run.info.run_id, "FINISHED", run.info.end_time - OLD_MS)
    (mark,) = {json.loads(path.read_text())["store"] for path in (workplace / "mlruns").rglob(MARK)}
    for name in ("e" * 32, "f" * 32):
        (workplace / "mlruns" / "0" / name).mkdir(parents=True)
        (workplace / "mlruns" / "0" / name / "left").write_bytes(b"x" * 12345)
    # the other one could be another store's
    write_mark(workplace / "mlruns" / "0" / ("f" * 32), mark)
    before = sum(
        path.stat().st_size
        for root in ("mlruns", "cache", "state", "studies")
        for path in (workplace / root).rglob("*")
        if path.is_file()
    )
    first = eyevsai("cleanup", "--all", "--keep", "1", "--dry-run").stdout
    assert len(numbers()) == 2
    plan = json.loads(eyevsai("cleanup", "--all", "--keep", "1", "--dry-run", "--json").stdout)[
        "plan"
    ]
    assert {item["type"] for item in plan["items"]} == {
        "version",
        "failed run",
        "study",
        "cache",
        "orphan",
    }
    assert [item["paths"] for item in plan["items"] if item["type"] == "orphan"] == [
        [str(workplace / "mlruns" / "0" / ("f" * 32))]
    ]
    assert "unknown, kept" in plan["kept"][str(workplace / "mlruns" / "0" / ("e" * 32))]
    assert [item["target"].split(" (")[0] for item in plan["items"] if item["type"] == "study"] == [
        "study first"
    ]
    said = eyevsai("cleanup", "--all", "--keep", "1", "--yes").stdout
    *listed, last = said.splitlines()
    assert listed == first.splitlines()
    after = sum(
        path.stat().st_size
        for root in ("mlruns", "cache", "state", "studies")
        for path in (workplace / root).rglob("*")
        if path.is_file() and "eyevsai-registry" not in str(path) and path.name != "plan.json"
    )
    freed = int(last.split("freed ")[1].split(" bytes")[0].replace(",", ""))
    assert freed == plan["bytes"]
    # locks of the cache, which are empty, and the record of this call
    assert abs(before - after - freed) < 100
    assert not (workplace / "studies" / "first.journal").exists()
    assert (workplace / "studies" / "second.journal").exists()
    assert eyevsai("cleanup", "--all", "--keep", "1", "--yes").stdout == "Nothing to delete.\n"
    package.load(f"models:/{NAME}/2").predict(draw_image(0, 0))


def test_without_yes_it_asks_a_person_and_refuses_a_program(
    eyevsai: Eyevsai, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    refused = eyevsai("cleanup", "--keep", "1", code=2)
    assert f"models:/{NAME}/1" in refused.stdout
    assert "eyevsai cleanup --keep 1" in refused.stderr
    assert "--yes" in refused.stderr
    for answer, left in (("n", [1, 2]), ("y", [2])):
        monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        assert "Delete 1 items?" in eyevsai("cleanup", "--keep", "1").stdout
        assert numbers() == left


class Terminal(io.StringIO):
    """Standard input at which a person types."""

    def isatty(self) -> bool:
        return True


def test_pinned_and_aliased_versions_stay_and_why_is_said(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    eyevsai("registry", "pin", NAME, "1", "--reason", "the paper")
    open_registry(os.environ["MLFLOW_TRACKING_URI"]).set_registered_model_alias(NAME, "best", "2")
    said = eyevsai("cleanup", "--keep", "0", "--including-newest", "--dry-run", "--verbose").stdout
    assert f"kept: models:/{NAME}/1: pinned: the paper" in said
    assert f"kept: models:/{NAME}/2: has the alias best" in said
    assert said.endswith("Nothing to delete.\n")
    assert eyevsai("registry", "unpin", NAME, "1").stdout.endswith("/1 is no longer pinned\n")
    assert eyevsai("registry", "unpin", NAME, "1").stdout.endswith("/1 was not pinned\n")
    eyevsai("cleanup", "--keep", "0", "--including-newest", "--yes")
    assert numbers() == [2]


def test_what_was_begun_in_the_ui_is_left_to_mlflow(eyevsai: Eyevsai, workplace: Path) -> None:
    client = MlflowClient()
    run_id = client.get_model_version(NAME, "1").run_id
    client.delete_model_version(NAME, "1")
    client.delete_run(run_id)
    said = eyevsai("cleanup", "--orphans", "--dry-run", "--verbose").stdout
    assert "kept: 1 run deleted in MLflow's UI: remove with mlflow gc" in said
    assert run_id not in said


def test_a_cleanup_of_nothing_in_particular_says_what_there_is(eyevsai: Eyevsai) -> None:
    said = eyevsai("cleanup", code=2).stderr
    assert "--old-versions, --failed-runs, --tuning, --cache, --orphans" in said
    assert "--including-newest" in eyevsai("cleanup", "--keep", "0", code=2).stderr
