"""MLFLOW_RUN_ID is taken over only if it is the fresh run of this call; an evaluation belongs to
its weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import TINY, TINY_NETWORK, TRAINED, Eyevsai

NAME = TRAINED["deep_v1"]


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


def finished_run() -> str:
    return str(MlflowClient().get_model_version(NAME, "1").run_id)


@pytest.mark.parametrize(
    "command",
    [
        ("train", *TINY),
        ("tune", "--n-trials", "1", *TINY_NETWORK),
        ("evaluate", "--model-uri", f"models:/{NAME}/1"),
        ("export", "--model-uri", f"models:/{NAME}/1"),
        ("cleanup", "--keep", "1", "--dry-run"),
        ("promote", NAME, "--version", "1"),
        ("report",),
    ],
    ids=lambda command: command[0],
)
def test_finished_run_in_the_environment_is_refused(
    eyevsai: Eyevsai, workplace: Path, command: tuple[str, ...]
) -> None:
    run_id, client = finished_run(), MlflowClient()
    before = client.get_run(run_id).to_dictionary()
    data = (
        ("--data", str(workplace / "data" / "stripes")) if command[0] in ("train", "tune") else ()
    )
    done = eyevsai(*command, *data, code=2, MLFLOW_RUN_ID=run_id)
    assert f"MLFLOW_RUN_ID is set to run {run_id}, which is FINISHED" in done.stderr
    assert "unset MLFLOW_RUN_ID" in done.stderr
    assert client.get_run(run_id).to_dictionary() == before
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({}, "was not created by `mlflow run` for this command"),
        (
            {"mlflow.project.entryPoint": "train", "eyevsai.job": "train"},
            "belongs to another command (train)",
        ),
    ],
)
def test_running_run_of_somebody_else_is_refused(
    eyevsai: Eyevsai, workplace: Path, tags: dict[str, str], why: str
) -> None:
    run = MlflowClient().create_run("0", tags=tags)  # as a notebook's, or another call's
    data = str(workplace / "data" / "stripes")
    assert (
        why in eyevsai("train", "--data", data, *TINY, code=2, MLFLOW_RUN_ID=run.info.run_id).stderr
    )
    assert (
        "does not exist in this store"
        in eyevsai("train", "--data", data, *TINY, code=2, MLFLOW_RUN_ID="0" * 32).stderr
    )


def test_evaluation_of_other_weights_does_not_promote(eyevsai: Eyevsai, workplace: Path) -> None:
    """A second version of one run, as a leftover MLFLOW_RUN_ID once made, has no evaluation of its
    own.
    """
    client = MlflowClient()
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/1", "--corruption-images", "0")
    eyevsai("train", "--data", str(workplace / "data" / "stripes"), *TINY)
    other, first = client.get_model_version(NAME, "2"), client.get_model_version(NAME, "1")
    copied = client.create_model_version(NAME, other.source, first.run_id, tags=other.tags)
    refused = eyevsai("promote", NAME, "--version", str(copied.version), code=1)
    assert (
        f"models:/{NAME}/{copied.version} was not evaluated with its current weights"
        in refused.stderr
    )
    eyevsai("promote", NAME, "--version", "1")


def test_damaged_weights_beside_an_export_are_not_promoted(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/1", "--corruption-images", "0")
    eyevsai("export", "--model-uri", f"models:/{NAME}/1", "--format", "onnx")
    model_id = MlflowClient().get_model_version(NAME, "1").source.rpartition("/")[2]
    (weights,) = workplace.rglob(f"{model_id}/artifacts/data/model/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused = eyevsai("promote", NAME, "--version", "1", code=1)
    assert "SHA-256 differs" in refused.stderr
