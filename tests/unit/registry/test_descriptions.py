"""Descriptions of registered models and versions."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from mlflow import MlflowClient

from eyevsai.registry import descriptions
from eyevsai.registry.classes import class_tags
from eyevsai.registry.descriptions import (
    LONGEST,
    describe_model,
    describe_version,
    write_descriptions,
)
from eyevsai.registry.entities import KnownVersion, RegisteredModel
from eyevsai.registry.versions import TESTED, TESTED_INTERVAL, THRESHOLD

NAME = "pets-deep_v1-standard"
TAGS = {
    "dataset": "pets",
    "model": "deep_v1",
    "variation": "standard",
    **class_tags(["cat", "dog"]),
}
TEST_TAGS = {TESTED: "0.9130", TESTED_INTERVAL: "0.8800 to 0.9400"}


def make_version(number: int, stage: str = "None", **tags: str) -> KnownVersion:
    tags = {"accuracy": "0.9", **tags}
    return KnownVersion(NAME, number, "ab", "", stage, (), tags, 0, 0)


def make_model(*versions: KnownVersion, **values: Any) -> RegisteredModel:
    return RegisteredModel(NAME, {**TAGS, **values.pop("tags", {})}, values, versions)


def test_version_is_described_by_what_is_known_of_it() -> None:
    first = make_version(1)
    assert describe_version(make_model(first), first, None) == (
        "Valid accuracy 0.9 on `pets`, 2 classes. Not evaluated on the test split yet."
    )
    tags = {
        **TEST_TAGS,
        THRESHOLD: "0.93721",
        "export.onnx": "passed",
        "export.onnx.weights_sha256": "ab",
        "export.pt2": "refused",
        "production.at": "2026-03-01T12:00:00+00:00",
        "eyevsai.pruned_from": "models:/x/1",
    }
    second = make_version(2, "Production", **tags)
    model = make_model(first, second, production=2, tags={"eyevsai.production": "2"})
    assert describe_version(model, second, "#/experiments/1/runs/ab") == (
        "Test accuracy 0.9130 (95 % interval 0.8800 to 0.9400) on `pets`, 2 classes. Predictions "
        "below a confidence of 0.9372 are `unsure`. Exports: onnx. Refused exports: pt2. In "
        "Production since 2026-03-01. Pruned from `models:/x/1`. "
        "[Training run](#/experiments/1/runs/ab)."
    )
    former = make_version(2, **tags, **{"production.until": "2026-03-09T12:00:00+00:00"})
    text = describe_version(make_model(first, former), former, None)
    assert "In Production from 2026-03-01 to 2026-03-09." in text
    edited = make_version(1, **{THRESHOLD: "high"})
    text = describe_version(make_model(edited), edited, None)
    assert "below a confidence of high are" in text


def test_reference_is_described_by_its_source() -> None:
    version = make_version(1, **{"eyevsai.source_version": "models:/x/3"})
    text = describe_version(make_model(version), version, None)
    assert text.startswith("Reference to `models:/x/3`")


def test_model_is_described_with_its_stages_and_newest_version() -> None:
    versions = make_version(1, "Production", **TEST_TAGS), make_version(2)
    model = make_model(*versions, production=1, tags={"eyevsai.production": "1"})
    view = "?workflowType=machine_learning"
    assert describe_model(model).split("\n\n") == [
        "Classifier of `pets`, 2 classes: `cat, dog`. Model: deep_v1/standard.",
        f"Production: [version 1](#/models/{NAME}/versions/1{view}), test accuracy 0.9130 (95 % "
        "interval 0.8800 to 0.9400).",
        f"Newest: [version 2](#/models/{NAME}/versions/2{view}), valid accuracy 0.9.",
    ]
    bare = RegisteredModel("pets", {"dataset": "a`b\nc"}, {}, ())
    assert describe_model(bare) == "Classifier of `a'b c`."


def register(client: MlflowClient, *stages: str) -> None:
    client.create_registered_model(NAME, tags=TAGS)
    run_id = client.create_run("0").info.run_id
    for stage in stages:
        version = client.create_model_version(NAME, "x", run_id, tags={"accuracy": "0.9"})
        if stage:
            client.transition_model_version_stage(NAME, version.version, stage)


@pytest.mark.usefixtures("workplace")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_versions_moved_by_hand_are_not_touched() -> None:
    client = MlflowClient()
    register(client, "Production", "Production", "")
    times = [client.get_model_version(NAME, str(each)).last_updated_timestamp for each in (1, 2)]
    write_descriptions(client, NAME, [1, 2, 3, 4])
    versions = [client.get_model_version(NAME, str(each)) for each in (1, 2, 3)]
    assert [each.last_updated_timestamp for each in versions[:2]] == times
    assert "Valid accuracy 0.9" in str(versions[2].description)
    assert "Production: [version 2]" in client.get_registered_model(NAME).description
    write_descriptions(client, "missing", [1])


@pytest.mark.usefixtures("workplace")
def test_description_that_would_be_too_long_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    client = MlflowClient()
    register(client, "")
    long = "x" * LONGEST
    client.update_model_version(NAME, "1", long)
    with caplog.at_level(logging.WARNING, "eyevsai"):
        write_descriptions(client, NAME, [1])
    assert client.get_model_version(NAME, "1").description == long
    assert f"The description of models:/{NAME}/1 is not updated" in caplog.text


@pytest.mark.usefixtures("workplace")
def test_model_that_changes_meanwhile_is_described_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client, original = MlflowClient(), descriptions.describe_model
    register(client, "")

    def change_once(model: RegisteredModel) -> str:
        monkeypatch.setattr(descriptions, "describe_model", original)
        text = original(model)
        client.create_model_version(NAME, "x", tags={"accuracy": "0.8"})
        return text

    monkeypatch.setattr(descriptions, "describe_model", change_once)
    write_descriptions(client, NAME, [1])
    assert "Newest: [version 2]" in client.get_registered_model(NAME).description
