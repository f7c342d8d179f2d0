"""From a run to Production and back, as a person does it."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.registry.lookup import find_version
from eyevsai.registry.registration import create_reference
from tests.conftest import (
    SMALL,
    Eyevsai,
    copy_trained,
    experiments,
    extend_trained,
    once,
    write_images,
)

NAME = "stripes-deep_v1-standard"
GOOD, BAD = ("--epochs", "8"), ("--epochs", "1", "--lr", "1e-5")


@pytest.fixture(scope="session")
def evaluated_store(
    tmp_path_factory: pytest.TempPathFactory, trained_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of three versions: two good ones and a bad one, all
    evaluated.
    """

    def build(folder: Path) -> None:
        run = extend_trained(trained_store, cache_dir, folder)
        for flags in ((*GOOD, "--mixup", "0"), BAD):
            run("train", "--data", str(folder / "data" / "stripes"), *SMALL, *flags)
        for number in (1, 2, 3):
            run("evaluate", "--model-uri", f"models:/{NAME}/{number}", "--corruption-images", "0")

    return once(tmp_path_factory, "evaluated", build)


@pytest.fixture
def workplace(evaluated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, as the current folder."""
    return copy_trained(evaluated_store, tmp_path / "project", monkeypatch)


def versions_in(stage: str) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            int(each.version)
            for each in MlflowClient().search_model_versions(f"name = '{NAME}'")
            if each.current_stage == stage
        ]


def description_of(number: int) -> str:
    return str(MlflowClient().get_model_version(NAME, str(number)).description)


def log_of(eyevsai: Eyevsai) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)
    return entries


def test_entry_point_promotes_and_rollback_puts_back(
    entry_point: Eyevsai, eyevsai: Eyevsai, workplace: Path
) -> None:
    said = entry_point(
        "promote", "-P", f"name={NAME}", "-P", "version=1", "-P", "reason=the first"
    ).stdout
    assert f"production: models:/{NAME}/1, previously none" in said
    page = f"http://127.0.0.1:5000/#/models/{NAME}/versions/1?workflowType=machine_learning"
    assert f"see it with: eyevsai ui\n{page}" in said
    (call,) = MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'promote'")
    assert (call.info.status, call.data.tags["model_uri"]) == ("FINISHED", f"models:/{NAME}/1")
    assert "In Production since 20" in description_of(1)
    client = MlflowClient()
    client.update_model_version(NAME, "1", f"Before.\n\n{description_of(1)}\n\nAfter.")
    client.update_registered_model(NAME, "Ask Ada before you use it.")
    eyevsai("promote", NAME, "--version", "2")
    assert versions_in("Production") == [2]
    assert versions_in("Archived") == [1]
    assert re.fullmatch(
        r"Before\.\n\n\u2063\u2063Test accuracy [^\n]* In Production from 20[-\d]+ to 20[-\d]+\. "
        r"\[Training run\][^\n]*\u2060\u2060\n\nAfter\.",
        description_of(1),
    )
    assert "In Production since 20" in description_of(2)
    about = client.get_registered_model(NAME).description
    assert about.startswith("Ask Ada before you use it.\n\n")
    assert f"Production: [version 2](#/models/{NAME}/versions/2?" in about
    assert f"Newest: [version 3](#/models/{NAME}/versions/3?" in about
    assert package.load(f"models:/{NAME}@production").metadata["settings"]["mixup"] == 0

    version = MlflowClient().get_model_version(NAME, "2")
    weights = next(
        Path(MlflowClient().get_model_version_download_uri(NAME, version.version)).rglob(
            "*.safetensors"
        )
    )
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    eyevsai(
        "predict",
        f"models:/{NAME}@production",
        str(next((workplace / "data").rglob("*.png"))),
        code=2,
    )
    eyevsai("rollback", NAME, "--reason", "2 does not load")
    assert versions_in("Production") == [1]
    eyevsai("predict", f"models:/{NAME}@production", str(next((workplace / "data").rglob("*.png"))))
    again = eyevsai("rollback", NAME, code=2).stderr
    assert "the log has no existing version that was in production before 1" in again

    entries = log_of(eyevsai)
    told = [(each["action"], each["before"], each["after"], each["reason"]) for each in entries]
    assert told == [
        ("promote", None, 1, "the first"),
        ("promote", 1, 2, ""),
        ("rollback", 2, 1, "2 does not load"),
    ]
    assert all(each["user"] and each["status"] == "FINISHED" for each in entries)
    tags = MlflowClient().get_model_version(NAME, "2").tags
    assert tags["production.until"] >= tags["production.at"]
    refused = eyevsai("promote", NAME, "--version", "2", code=1).stderr
    assert f"models:/{NAME}/2 does not load" in refused
    assert "SHA-256" in refused


def test_what_the_policy_is_against_is_not_promoted(eyevsai: Eyevsai, workplace: Path) -> None:
    eyevsai("promote", NAME, "--version", "1")
    said = eyevsai("promote", NAME, "--version", "3", code=1).stderr
    assert f"models:/{NAME}/3 is worse: accuracy" in said
    assert "Nothing was changed. --force --reason TEXT overrides the policy" in said
    assert versions_in("Production") == [1]
    assert (
        "requires --reason" in eyevsai("promote", NAME, "--version", "3", "--force", code=2).stderr
    )
    forced = eyevsai("promote", NAME, "--version", "3", "--force", "--reason", "a demonstration")
    assert "forced  not worse" in forced.stdout
    assert versions_in("Production") == [3]
    refusal, done = log_of(eyevsai)[-2:]
    assert (refusal["status"], refusal["refused"], refusal["forced"]) == ("FAILED", True, False)
    assert (done["status"], done["forced"], done["reason"]) == ("FINISHED", True, "a demonstration")
    run_id = str(done["run_id"])
    checks = json.loads(
        Path(MlflowClient().download_artifacts(run_id, "promotion_checks.json")).read_text()
    )
    assert {check["name"] for check in checks["checks"] if not check["ok"]} == {
        "floor",
        "not worse",
    }
    assert MlflowClient().get_run(run_id).data.metrics["accuracy_before"] > 0.6


def test_no_better_than_chance_is_not_promoted_unless_the_policy_sets_a_floor(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    refused = eyevsai("promote", f"{NAME}/3", code=1).stderr
    assert f"No floor is set, and accuracy of models:/{NAME}/3" in refused
    assert "chance, 0.3333 (the share of the largest class), plus 3 standard errors" in refused
    assert versions_in("Production") == []
    said = eyevsai("promote", f"{NAME}/1").stdout
    assert "no floor set; accuracy is" in said
    (row,) = json.loads(eyevsai("registry", "status", f"{NAME}/1", "--json").stdout)["versions"]
    assert row["floor"].startswith("none set, chance 0.")
    assert row["floor"] in eyevsai("registry", "status", NAME).stdout
    run_id = str(log_of(eyevsai)[-1]["run_id"])
    text = Path(MlflowClient().download_artifacts(run_id, "promotion_checks.json")).read_text()
    floor = json.loads(text)["floor"]
    assert floor["set"] is None
    assert floor["limit"] > floor["chance"]["level"] == pytest.approx(1 / 3)

    later = eyevsai("promote", f"{NAME}/3", code=1).stderr  # not only for the first promotion
    assert "No floor is set" in later
    eyevsai("promote", f"{NAME}/3", "--to", "staging", "--force", "--reason", "a test")
    (row,) = json.loads(eyevsai("registry", "status", f"{NAME}/3", "--json").stdout)["versions"]
    assert row["floor"].endswith(", not reached")
    (workplace / "promotion.toml").write_text("floor = 0\ntolerance = 1\nsignificance = 0\n")
    assert "the policy requires 0.0000" in eyevsai("promote", f"{NAME}/3").stdout


def test_a_policy_is_a_file_with_words_of_its_own_for_a_dataset(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    policy = workplace / "promotion.toml"  # what is taken by itself
    policy.write_text(
        "floor = 0.1\nmax_size_mb = 100\n[datasets.stripes]\nmax_latency_ms = 0.0001\nexports = "
        "'onnx'\n"
    )
    said = eyevsai("promote", NAME, "--version", "1", code=1).stderr
    assert "ms for one image; the policy allows 0.0001" in said
    assert f"eyevsai export {NAME}/1 --format onnx" in said
    assert "floor" not in said
    policy.write_text("flor = 0.1\n")
    assert (
        "'flor' is not a policy setting. Did you mean 'floor'?"
        in eyevsai("promote", NAME, "--version", "1", code=2).stderr
    )
    policy.write_text("floor = 2\n")
    assert (
        "promotion.toml: floor 2.0 is not allowed. Use a value from 0 to 1."
        in eyevsai("promote", NAME, "--version", "1", code=2).stderr
    )
    policy.write_text("exports = 'onnx'\n")
    eyevsai("export", "--model-uri", f"models:/{NAME}/1")
    assert (
        "exports passed the parity check: onnx" in eyevsai("promote", NAME, "--version", "1").stdout
    )


@pytest.mark.processes("images are decoded in forks")
def test_a_version_not_evaluated_or_on_other_images_is_not_promoted(
    eyevsai: Eyevsai, workplace: Path, tmp_path: Path
) -> None:
    data = workplace / "data" / "stripes"
    eyevsai("train", "--data", str(data), *SMALL, *GOOD)
    said = eyevsai("promote", NAME, "--version", "4", code=1).stderr
    assert f"was not evaluated with its current weights: eyevsai evaluate {NAME}/4" in said
    eyevsai("promote", NAME, "--version", "1")
    more = tmp_path / "stripes"
    shutil.copytree(data, more)
    write_images(more, {"across": 10, "down": 10, "wide": 10}, start=100)
    eyevsai("train", "--data", str(more), "--dataset", "stripes", *SMALL, *GOOD)
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/5", "--corruption-images", "0")
    said = eyevsai("promote", NAME, "--version", "5", code=1).stderr
    assert "were not evaluated on the same images. Evaluate both on one folder" in said
    for number in (1, 5):
        uri = f"models:/{NAME}/{number}"
        eyevsai("evaluate", "--model-uri", uri, "--data", str(more), "--corruption-images", "0")
    assert "not worse" in eyevsai("promote", NAME, "--version", "5").stdout


def test_what_is_set_by_hand_counts_and_is_shown(eyevsai: Eyevsai, workplace: Path) -> None:
    eyevsai("promote", NAME, "--version", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MlflowClient().transition_model_version_stage(NAME, "3", "Production")
    status = json.loads(eyevsai("registry", "status", NAME, "--json", code=1).stdout)
    (current,) = [each for each in status["versions"] if each["stage"] == "production"]
    assert (current["version"], current["by_hand"]) == (3, True)
    assert f"eyevsai registry reconcile {NAME}" in status["disagreements"][0]
    eyevsai("promote", NAME, "--version", "2")
    assert [(each["action"], each["before"], each["after"]) for each in log_of(eyevsai)] == [
        ("promote", None, 1),
        ("found", 1, 3),
        ("promote", 3, 2),
    ]
    assert versions_in("Production") == [2]
    MlflowClient().set_registered_model_alias(NAME, "production", "1")
    assert "alias production is 1" in eyevsai("registry", "reconcile", NAME).stdout
    assert versions_in("Production") == [1]
    assert "is consistent" in eyevsai("registry", "reconcile", NAME).stdout
    eyevsai("registry", "status")


def test_the_log_knows_what_was_in_production_then(eyevsai: Eyevsai, workplace: Path) -> None:
    eyevsai("promote", NAME, "--version", "1")
    eyevsai("promote", NAME, "--version", "2")
    assert (
        "is in Production"
        in eyevsai("promote", NAME, "--version", "2", "--to", "staging", code=2).stderr
    )
    eyevsai("promote", NAME, "--version", "2", "--to", "archived", "--reason", "withdrawn")
    today = f"{datetime.now():%Y-%m-%d}"
    holders = json.loads(eyevsai("registry", "log", NAME, "--at", today, "--json").stdout)
    assert [each["version"] for each in holders] == [1, 2, None]
    tomorrow = f"{datetime.now() + timedelta(days=1):%Y-%m-%d}"
    assert "none" in eyevsai("registry", "log", NAME, "--at", tomorrow).stdout
    assert "No version of" in eyevsai("registry", "log", NAME, "--at", "2020-03-03").stdout
    assert "is not a date" in eyevsai("registry", "log", NAME, "--at", "3 March", code=2).stderr
    eyevsai("rollback", NAME)
    assert versions_in("Production") == [2]


def test_the_best_of_a_dataset_has_a_name_of_its_own(eyevsai: Eyevsai, workplace: Path) -> None:
    ranking = json.loads(eyevsai("registry", "best", "--dataset", "stripes", "--json").stdout)
    # the other families were not
    evaluated = [each for each in ranking if each["metric"] == "test_accuracy"]
    assert {each["uri"] for each in evaluated} == {
        f"models:/{NAME}/{number}" for number in (1, 2, 3)
    }
    assert evaluated[-1]["uri"] == f"models:/{NAME}/3"
    said = eyevsai("registry", "best", "--dataset", "stripes", "--promote").stdout
    assert "production: models:/stripes/1, previously none" in said
    image = str(next((workplace / "data").rglob("*.png")))
    assert (
        eyevsai("predict", "models:/stripes@production", image).stdout
        == eyevsai("predict", ranking[0]["uri"], image).stdout
    )
    said = eyevsai("registry", "best", "--dataset", "stripes", "--promote").stdout
    assert "production: models:/stripes/1" in said  # the same one again makes no version
    eyevsai("export", "--model-uri", "models:/stripes@production")
    name, number = ranking[0]["uri"].removeprefix("models:/").rsplit("/", 1)
    assert MlflowClient().get_model_version(name, number).tags["export.onnx"] == "passed"
    assert (
        "There is no dataset with a trained model 'stripe'"
        in eyevsai("registry", "best", "--dataset", "stripe", code=2).stderr
    )


def test_a_reference_follows_its_version_when_the_model_is_renamed(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    client, renamed = MlflowClient(), "renamed stripes"
    eyevsai("registry", "best", "--dataset", "stripes", "--promote")
    source = find_version(client.tracking_uri, "stripes/1").source_version
    number = source.rpartition("/")[2]
    assert source == f"models:/{NAME}/{number}"
    client.rename_registered_model(NAME, renamed)
    for _ in range(int(number)):  # another model gets the former name
        client.copy_model_version(f"models:/{renamed}/3", NAME)
    reference = find_version(client.tracking_uri, "stripes/1")
    assert reference.source_version == f"models:/{renamed}/{number}"
    eyevsai("export", "stripes/1", "--format", "pytorch")
    assert client.get_model_version(renamed, number).tags["export.pytorch"] == "passed"
    assert "export.pytorch" not in client.get_model_version(NAME, number).tags
    # it is not taken for a reference to the other model
    assert create_reference(client.tracking_uri, "stripes", source) == ("stripes", 2)


def test_bad_input_is_said(eyevsai: Eyevsai, workplace: Path) -> None:
    assert (
        f"Did you mean '{NAME}'?"
        in eyevsai("promote", "stripes-deep_v1", "--version", "1", code=2).stderr
    )
    assert (
        f"There is no version 9 of the registered model '{NAME}'. Its versions: 3, 2, 1."
        in eyevsai("promote", NAME, "--version", "9", code=2).stderr
    )
    assert "promote requires a version" in eyevsai("promote", NAME, code=2).stderr
    assert (
        "production, staging, archived"
        in eyevsai("promote", NAME, "--version", "1", "--to", "live", code=2).stderr
    )
    MlflowClient().delete_model_version(NAME, "3")
    assert (
        f"There is no version 3 of the registered model '{NAME}'"
        in eyevsai("promote", NAME, "--version", "3", code=2).stderr
    )
    assert (
        "the log has no existing version that was in production"
        in eyevsai("rollback", NAME, code=2).stderr
    )
    assert eyevsai("registry", "status", "nothing", code=2).stderr.startswith(
        "Error: There is no registered model"
    )
    assert log_of(eyevsai) == []
