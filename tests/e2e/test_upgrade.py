"""`eyevsai doctor --upgrade` of a store that commit 4c82b9d wrote; see stores/make_store.sh."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from eyevsai.config import train_settings
from eyevsai.core.legacy_names import SETTING_NAMES
from eyevsai.models.factory import FAMILIES
from eyevsai.store import schema
from eyevsai.store.run_dir import RunDir
from eyevsai.store.schema_upgrade import find_old_run_dirs, upgrade_run_dir
from tests.conftest import Eyevsai, create_database

ARCHIVE = Path(__file__).parent / "stores" / "store_4c82b9d.tar.xz"
HOST = "vm"  # where it was made
MODEL = "digits-deep_v1-standard"
UPGRADED = "upgraded to the current names: "
TAGS = {  # of runs and versions
    "job": "eyevsai.job",
    "host": "eyevsai.host",
    "process": "eyevsai.process",
    "ended_by": "eyevsai.termination_reason",
    "paused_s": "eyevsai.paused_s",
    "fingerprint": "eyevsai.dataset_digest",
    "subject": "eyevsai.source_run_id",
    "recipe": "eyevsai.job_fingerprint",
    "test_fingerprint": "eyevsai.evaluation_digest",
    "points_at": "eyevsai.source_version",
    "pruned_from": "eyevsai.pruned_from",
}
METRICS = {
    "accumulation": "grad_accum_steps",
    "best/epoch": "best_epoch",
    "calibration/ece": "calibration_ece",
    "test/accuracy": "test_accuracy",
    **{
        f"best/{name}": f"best_valid_{name}"
        for name in ("accuracy", "balanced_accuracy", "loss", "macro_f1", "top5_accuracy")
    },
}
PARAMS = {
    "accumulation": "grad_accum_steps",
    "cache_root": "cache_dir",
    "data_root": "data_dir",
    "lr_floor": "min_lr_ratio",
    "mix_share": "mixup_prob",
    "test_flips": "tta_flip",
    "jobs": "parallel_jobs",
    "engine": "executor",
    "job_cpus": "cpus_per_job",
}
ALL_SCHEMA_1 = {"eyevsai", *TAGS}


@pytest.fixture
def old_store(workplace: Path, eyevsai: Eyevsai, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace with the store, whose paths lead into it, on the machine that made it."""
    (workplace / "mlflow.db").unlink()
    shutil.rmtree(workplace / "mlruns", ignore_errors=True)
    shutil.unpack_archive(ARCHIVE, workplace)  # our own archive
    monkeypatch.setenv("EYEVSAI_STATE", str(workplace / "state"))
    monkeypatch.setenv("EYEVSAI_CACHE", str(workplace / "cache"))
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr(schema, "_checked", set())
    eyevsai("doctor", "--relocate", code=1)  # moved, and still of the earlier schema
    return workplace


def runs_of(client: MlflowClient) -> list[Run]:
    ids = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(ids, run_view_type=ViewType.ALL, max_results=1000))


def renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


@pytest.mark.parametrize(
    "command",
    [
        "registry status",
        "registry log NAME",
        "sync",
        "evaluate --run a",
        "compare a b",
        "report",
        "export --run a",
        f"predict models:/{MODEL}/1 image.png",
        f"promote {MODEL} --version 1",
        "train --epochs 1",
        "tune --n-trials 1",
        "train-all --models deep_v1",
        "cleanup --failed-runs --yes",
    ],
)
def test_an_old_store_is_refused_with_the_command_that_upgrades_it(
    old_store: Path, eyevsai: Eyevsai, command: str
) -> None:
    before = (old_store / "mlflow.db").read_bytes()
    (old_store / "image.png").touch()
    assert "eyevsai doctor --upgrade" in eyevsai(*command.split(), code=2).stderr
    assert (old_store / "mlflow.db").read_bytes() == before


def test_upgraded_store_has_the_present_names_and_the_same_values(
    old_store: Path, eyevsai: Eyevsai
) -> None:
    client = MlflowClient()
    theirs = {"job": "nightly", "process": "etl", "host": "a", "fingerprint": "b"}
    foreign = client.create_run("0", tags=theirs).info.run_id
    client.create_registered_model("theirs")
    client.create_model_version("theirs", str(old_store), tags=theirs)
    deleted = next(run for run in runs_of(client) if run.info.run_name == "unsent").info.run_id
    client.delete_run(deleted)
    before = {run.info.run_id: run for run in runs_of(client)}
    versions = {(each.name, each.version): each.tags for each in client.search_model_versions()}
    assert "FAIL  store" in eyevsai("doctor", code=1).stdout
    said = eyevsai("doctor", "--upgrade").stdout
    assert "ok    store" in said
    assert "not upgraded: 1 deleted run." in said
    assert len(list(old_store.glob("mlflow.db.backup-*"))) == 2  # of --relocate and --upgrade

    after = {run.info.run_id: run for run in runs_of(client)}
    assert after.keys() == before.keys()
    for run_id, old in before.items():
        new = after[run_id]
        assert new.info.status == old.info.status
        assert new.data.metrics.items() >= old.data.metrics.items()
        if run_id in (foreign, deleted):
            assert new.data.tags == old.data.tags
            continue
        is_record = "eyevsai" not in old.data.tags and "action" in old.data.tags
        marks = {"eyevsai.schema": "2"}
        kept = {name: value for name, value in old.data.tags.items() if name != "eyevsai"}
        assert new.data.tags == renamed(kept, TAGS) | marks, is_record
        assert new.data.metrics.items() >= renamed(old.data.metrics, METRICS).items()
        assert new.data.params.items() >= renamed(old.data.params, PARAMS).items()
    trained = next(run for run in after.values() if run.info.run_name == "first version")
    for name in ("best/accuracy", "accumulation"):
        old_points = client.get_metric_history(trained.info.run_id, name)
        points = client.get_metric_history(trained.info.run_id, METRICS[name])
        assert old_points
        assert [(each.step, each.value) for each in points] == [
            (each.step, each.value) for each in old_points
        ]
    for version in client.search_model_versions():
        old_tags = versions[version.name, version.version]
        assert version.tags == (theirs if version.name == "theirs" else renamed(old_tags, TAGS))

    said = eyevsai("doctor", "--upgrade").stdout
    assert said.startswith(f"{UPGRADED}0 runs, 0 versions and run directories of 0 runs\n")
    assert len(list(old_store.glob("mlflow.db.backup-*"))) == 2  # nothing to copy for
    client.restore_run(deleted)
    schema._checked.clear()
    assert "--upgrade" in eyevsai("registry", "status", code=2).stderr
    assert eyevsai("doctor", "--upgrade").stdout.startswith(f"{UPGRADED}1 run, ")


@pytest.mark.processes("evaluation decodes images in worker processes")
def test_upgraded_store_goes_on_working(old_store: Path, eyevsai: Eyevsai) -> None:
    eyevsai("doctor", "--upgrade")
    client = MlflowClient()
    by_name = {run.info.run_name: run for run in runs_of(client)}
    unsent = by_name["unsent"].info.run_id
    queue = (old_store / "state" / "runs" / unsent / "write_queue.jsonl").read_text()
    operations = [json.loads(line) for line in queue.splitlines()]
    written = {
        name
        for _, arguments in operations
        for values in (arguments.get("values"), arguments.get("tags"), arguments.get("params"))
        for name in values or ()
    }
    assert {"best_valid_accuracy", "grad_accum_steps", "eyevsai.dataset_digest"} <= written
    assert not written & (ALL_SCHEMA_1 | set(METRICS) | set(SETTING_NAMES))
    assert not {path.name for path in old_store.glob("state/runs/*/*")} & set(schema.RUN_FILES)

    eyevsai("sync")
    found = client.get_run(unsent)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["best_valid_accuracy"] > 0
    assert "best/accuracy" not in found.data.metrics
    number = found.data.tags["version"].rsplit("/", 1)[1]
    assert client.get_model_version(MODEL, number).tags["eyevsai.dataset_digest"]

    evaluate = ("evaluate", "--model-uri", f"models:/{MODEL}/2", "--corruption-images", "0")
    evaluated = json.loads(eyevsai(*evaluate, "--json").stdout)
    run = client.get_run(evaluated["run_id"])
    assert evaluated["metrics"]["accuracy"] == pytest.approx(run.data.metrics["test_accuracy"])
    compared = eyevsai("compare", *(by_name[name].info.run_id for name in (MODEL, "first version")))
    assert "accuracy" in compared.stdout
    described = eyevsai("registry", "log", MODEL, "--json").stdout
    assert [entry["action"] for entry in json.loads(described)][:2] == ["promote", "promote"]
    assert "report" in eyevsai("report").stdout
    tuned = ("train", "--tuned", MODEL, "--epochs", "1", "--width", "4", "--lr", "0.01")
    assert "is used because --tuned names it" in eyevsai(*tuned).stderr
    interrupted = by_name["interrupted"].info.run_id
    refused = eyevsai("train", "--resume", interrupted, code=2).stderr
    assert "--resume-force" in refused
    forced = eyevsai("train", "--resume", interrupted, "--resume-force", "true", code=2).stderr
    assert "checkpoint format 1" in forced
    plan = json.loads(eyevsai("cleanup", "--keep", "1", "--dry-run", "--json").stdout)
    assert {"version"} <= {item["type"] for item in plan["plan"]["items"]}


@pytest.mark.usefixtures("old_store")
@pytest.mark.processes("training decodes images in worker processes")
def test_settings_that_a_run_lacks_are_those_of_its_version(eyevsai: Eyevsai) -> None:
    from eyevsai.store.uris import find_store
    from eyevsai.tracking.search import read_json
    from eyevsai.workflows.trained_model import find_trained_model

    former = {
        "pooling": "late",
        "whitening": False,
        "crop_share": 1.0,
        "translate": 0.0,
        "noise": 0.0,
    }
    eyevsai("doctor", "--upgrade")
    first = find_trained_model(find_store(), f"{MODEL}/1")  # as export --prune reads it
    assert former.items() <= first.config.items()
    eyevsai("train", "--config", f"run:{first.run_id}", "--epochs", "1", "--run-name", "repeated")
    (repeated,) = (run for run in runs_of(MlflowClient()) if run.info.run_name == "repeated")
    config = read_json(find_store(), repeated.info.run_id, "config.json")
    assert former.items() <= config.items()


def test_no_run_is_upgraded_while_its_process_may_work(
    old_store: Path, eyevsai: Eyevsai, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "another")  # which cannot know
    before = runs_of(MlflowClient())
    said = eyevsai("doctor", "--upgrade", code=2).stderr
    assert "is RUNNING on vm" in said
    assert [run.data.tags for run in runs_of(MlflowClient())] == [run.data.tags for run in before]


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
    schema._checked.clear()
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
        assert not run.data.tags.keys() & ALL_SCHEMA_1


def test_interrupted_upgrade_of_a_run_directory_is_completed(
    old_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = (old_store / "state" / "runs").glob("*/spool.jsonl")
    path = max(queues, key=lambda path: path.stat().st_size)
    run_dir, steps = RunDir(old_store / "state", path.parent.name), range(12)
    lines = path.read_bytes().count(b"\n")

    def fail_at(step: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*arguments: Any, **options: Any) -> Any:
            taken.append(step)
            if len(taken) > step:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return fail

    for step in steps:
        taken: list[int] = []
        with monkeypatch.context() as patch:
            for name in ("rename", "unlink", "replace"):
                patch.setattr(Path, name, fail_at(step, getattr(Path, name)))
            try:
                upgrade_run_dir(run_dir)
            except KeyboardInterrupt:
                continue
        break
    names = {path.name for path in run_dir.path.iterdir()}
    assert not names & set(schema.RUN_FILES)
    assert not set(run_dir.read("config.json")) & set(SETTING_NAMES)
    assert (run_dir.path / "write_queue.jsonl").read_bytes().count(b"\n") <= lines
    assert step >= 3


def test_run_directory_is_found_until_its_configuration_is_upgraded(
    old_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir = old_store / "state"
    queues = (state_dir / "runs").glob("*/spool.jsonl")
    run_dir = RunDir(state_dir, next(queues).parent.name)
    for name in ("basis.json", "asked.json", "spool.done"):
        (run_dir.path / name).unlink(missing_ok=True)
    run_dir.write("config.json", {"test_flips": True})
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "write", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            upgrade_run_dir(run_dir)
    assert run_dir.run_id in [each.run_id for each in find_old_run_dirs(state_dir)]


def test_run_directories_of_a_machine_that_did_not_upgrade_are_noticed(
    old_store: Path, eyevsai: Eyevsai
) -> None:
    shutil.copytree(old_store / "state", old_store / "other")
    eyevsai("doctor", "--upgrade")
    other = ("--state-dir", str(old_store / "other"))
    assert "doctor --upgrade" in eyevsai("sync", *other, code=2).stderr
    assert "FAIL  store" in eyevsai("doctor", *other, code=1).stdout
    said = eyevsai("doctor", "--upgrade", *other).stdout
    assert said.startswith(f"{UPGRADED}0 runs, 0 versions and run directories of 3 runs\n")
    eyevsai("sync", *other)


def test_a_store_of_a_newer_schema_is_refused(eyevsai: Eyevsai) -> None:
    MlflowClient().create_run("0", tags={"eyevsai.schema": "3"})
    schema._checked.clear()
    assert "has schema 3" in eyevsai("registry", "status", code=2).stderr


def test_a_database_is_upgraded_without_a_copy(
    eyevsai: Eyevsai, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = create_database(postgres, "of_schema_1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    eyevsai("doctor", "--init")
    client = MlflowClient(tracking_uri=uri)
    tags = {"eyevsai": "1", "job": "train", "fingerprint": "f"}
    run_id = client.create_run("0", tags=tags).info.run_id
    client.set_terminated(run_id)
    schema._checked.clear()
    assert "--upgrade" in eyevsai("registry", "status", code=2).stderr
    assert eyevsai("doctor", "--upgrade").stdout.startswith(f"{UPGRADED}1 run, ")
    found = client.get_run(run_id).data.tags
    assert (found["eyevsai.job"], found["eyevsai.dataset_digest"]) == ("train", "f")


def test_each_former_setting_has_a_present_name() -> None:
    present = {setting.name for family in FAMILIES for setting in train_settings(family)}
    assert set(SETTING_NAMES.values()) <= present
    assert not set(SETTING_NAMES) & present
