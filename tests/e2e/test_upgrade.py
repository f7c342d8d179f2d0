"""`eyevsai doctor --upgrade` of a store that commit 4c82b9d wrote; see stores/make_store.sh."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from eyevsai.store.schema import RUN_FILES, SCHEMA_1, TAG_NAMES
from tests.conftest import Eyevsai

ARCHIVE = Path(__file__).parent / "stores" / "store_4c82b9d.tar.xz"
MODEL = "digits-deep_v1-standard"


@pytest.fixture
def old_store(workplace: Path, eyevsai: Eyevsai, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace with the store, whose paths lead into it."""
    (workplace / "mlflow.db").unlink()
    shutil.rmtree(workplace / "mlruns", ignore_errors=True)
    shutil.unpack_archive(ARCHIVE, workplace)  # our own archive
    monkeypatch.setenv("EYEVSAI_STATE", str(workplace / "state"))
    monkeypatch.setenv("EYEVSAI_CACHE", str(workplace / "cache"))
    eyevsai("doctor", "--relocate", code=1)  # moved, and still of the earlier schema
    return workplace


def runs_of(client: MlflowClient) -> list[Run]:
    ids = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(ids, run_view_type=ViewType.ALL, max_results=1000))


def test_an_old_store_is_refused_with_the_command_that_upgrades_it(
    old_store: Path, eyevsai: Eyevsai
) -> None:
    before = (old_store / "mlflow.db").read_bytes()
    for command in (("registry", "status"), ("sync",), ("evaluate", "--run", "a")):
        assert "eyevsai doctor --upgrade" in eyevsai(*command, code=2).stderr
    assert "FAIL  store" in eyevsai("doctor", code=1).stdout
    assert (old_store / "mlflow.db").read_bytes() == before


def test_upgraded_store_has_the_present_names_and_the_same_values(
    old_store: Path, eyevsai: Eyevsai
) -> None:
    client = MlflowClient()
    before = {run.info.run_id: run for run in runs_of(client)}
    versions = {(each.name, each.version): each.tags for each in client.search_model_versions()}
    said = eyevsai("doctor", "--upgrade").stdout
    assert "ok    store" in said
    assert len(list(old_store.glob("mlflow.db.backup-*"))) == 2  # of --relocate and --upgrade

    after = {run.info.run_id: run for run in runs_of(client)}
    assert after.keys() == before.keys()
    for run_id, old in before.items():
        new = after[run_id].data
        assert not new.tags.keys() & {SCHEMA_1, *TAG_NAMES}, run_id
        for name, value in old.data.tags.items():
            assert name == SCHEMA_1 or new.tags[TAG_NAMES.get(name, name)] == value
        for name, value in old.data.metrics.items():
            assert new.metrics[name.replace("best/", "valid/best_")] == value
        assert after[run_id].info.status == old.info.status
    trained = next(run for run in after.values() if run.info.run_name == "first version")
    assert trained.data.tags["eyevsai.job"] == "train"
    assert trained.data.params["grad_accum_steps"] == trained.data.params["accumulation"]
    history = client.get_metric_history(trained.info.run_id, "valid/best_accuracy")
    assert [point.value for point in history] == [trained.data.metrics["best/accuracy"]]
    for version in client.search_model_versions():
        old_tags = versions[version.name, version.version]
        assert version.tags == {TAG_NAMES.get(name, name): old_tags[name] for name in old_tags}
    assert eyevsai("doctor", "--upgrade").stdout.startswith("0 runs, 0 versions and 0 run")


@pytest.mark.processes("evaluation decodes images in worker processes")
def test_upgraded_store_goes_on_working(old_store: Path, eyevsai: Eyevsai) -> None:
    eyevsai("doctor", "--upgrade")
    client = MlflowClient()
    by_name = {run.info.run_name: run for run in runs_of(client)}
    unsent = by_name["unsent"].info.run_id
    queue = (old_store / "state" / "runs" / unsent / "write_queue.jsonl").read_text()
    assert '"eyevsai.job"' not in queue or '"job"' not in queue
    assert {path.name for path in old_store.rglob("state/runs/*/*")}.isdisjoint(RUN_FILES)

    eyevsai("sync")
    found = client.get_run(unsent)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["valid/best_accuracy"] > 0
    assert "best/accuracy" not in found.data.metrics
    uri = found.data.tags["version"]
    number = int(uri.rsplit("/", 1)[1])
    assert client.get_model_version(MODEL, str(number)).tags["eyevsai.dataset_digest"]

    evaluated = json.loads(
        eyevsai(
            "evaluate", "--model-uri", f"models:/{MODEL}/2", "--corruption-images", "0", "--json"
        ).stdout
    )
    run = client.get_run(evaluated["run_id"])
    assert evaluated["metrics"]["accuracy"] == pytest.approx(run.data.metrics["test/accuracy"])
    described = eyevsai("registry", "log", MODEL, "--json").stdout
    assert [entry["action"] for entry in json.loads(described)][:2] == ["promote", "promote"]
    interrupted = by_name["interrupted"].info.run_id
    refused = eyevsai("train", "--resume", interrupted, code=2).stderr
    assert "--resume-force" in refused
    forced = eyevsai("train", "--resume", interrupted, "--resume-force", "true", code=2).stderr
    assert "checkpoint format 1" in forced
    eyevsai("cleanup", "--keep", "1", "--dry-run")


@pytest.mark.parametrize("name", ["delete_tag", "delete_model_version_tag"])
def test_interrupted_upgrade_is_refused_and_completed_by_the_next(
    old_store: Path, eyevsai: Eyevsai, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original, calls = getattr(MlflowClient, name), []

    def count(*arguments: object) -> None:
        calls.append(arguments)
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, name, count)
        eyevsai("doctor", "--upgrade")
    before = len(calls)
    shutil.rmtree(old_store / "state")
    shutil.unpack_archive(ARCHIVE, old_store)
    eyevsai("doctor", "--relocate", code=1)

    def interrupt(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2 * before:  # the last of all
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, name, interrupt)
        eyevsai("doctor", "--upgrade", code=130)
    assert "--upgrade" in eyevsai("registry", "status", code=2).stderr
    eyevsai("doctor", "--upgrade")
    for run in runs_of(MlflowClient()):
        assert not run.data.tags.keys() & {SCHEMA_1, *TAG_NAMES}


def test_run_directories_of_a_machine_that_did_not_upgrade_are_noticed(
    old_store: Path, eyevsai: Eyevsai
) -> None:
    shutil.copytree(old_store / "state", old_store / "other")
    eyevsai("doctor", "--upgrade")
    other = ("--state-dir", str(old_store / "other"))
    assert "doctor --upgrade" in eyevsai("sync", *other, code=2).stderr
    assert "FAIL  store" in eyevsai("doctor", *other, code=1).stdout
    assert eyevsai("doctor", "--upgrade", *other).stdout.startswith("0 runs, 0 versions and 3 run")
    eyevsai("sync", *other)
