"""A version goes on working after its training run or other runs were removed by hand or by `mlflow
gc`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import SMALL, TRAINED, Eyevsai, copy_trained, experiments, extend_trained, once
from tests.mlflow_gc import collect_garbage

NAME = TRAINED["deep_v1"]
URI = f"models:/{NAME}/1"
FAST = ("--corruption-images", "0")


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


def delete_run(number: int = 1, *, for_good: bool) -> str:
    """Delete the training run as MLflow's UI does, or for good, as `mlflow gc` does."""
    client = MlflowClient()
    run_id = str(client.get_model_version(NAME, str(number)).run_id)
    client.delete_run(run_id)
    if for_good:
        collect_garbage([run_id])
    return run_id


def image_of(workplace: Path) -> str:
    return str(next((workplace / "data").rglob("*.png")))


@pytest.mark.processes("images are decoded in forks")
@pytest.mark.parametrize("for_good", [False, True], ids=["deleted", "mlflow gc"])
def test_version_whose_run_is_gone_is_evaluated_promoted_and_exported(
    eyevsai: Eyevsai, workplace: Path, *, for_good: bool
) -> None:
    run_id = delete_run(for_good=for_good)
    eyevsai("predict", URI, image_of(workplace))
    refused = eyevsai("promote", NAME, "--version", "1", code=1).stderr
    version = URI.removeprefix("models:/")
    assert f"was not evaluated with its current weights: eyevsai evaluate {version}" in refused

    said = eyevsai("evaluate", "--model-uri", URI, *FAST)
    assert (
        f"Run {run_id} of {URI} was deleted; using the settings stored with the version."
        in said.stderr
    )
    (found,) = MlflowClient().search_runs(
        experiments(),
        f"tags.`eyevsai.job` = 'evaluate' and tags.`eyevsai.source_run_id` = '{run_id}'",
    )
    assert found.data.metrics["test_accuracy"] > 0.5
    eyevsai("promote", NAME, "--version", "1")

    assert "onnx" in eyevsai("export", "--model-uri", URI, "--format", "onnx").stdout
    (call,) = MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'export'")
    assert {each.path for each in MlflowClient().list_artifacts(call.info.run_id, "exports/onnx")}
    eyevsai("predict", URI, image_of(workplace))
    eyevsai("predict", f"runs:/{call.info.run_id}/exports/onnx", image_of(workplace))
    assert (
        "exports passed the parity check: onnx" in eyevsai("promote", NAME, "--version", "1").stdout
    )

    eyevsai("train", "--data", str(workplace / "data" / "stripes"), *SMALL, "--epochs", "2")
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/2", *FAST)
    assert URI in eyevsai("compare", URI, f"models:/{NAME}/2").stdout
    for command in (
        ("registry", "status"),
        ("registry", "status", NAME),
        ("doctor",),
        ("report",),
        ("sync",),
        ("cleanup", "--orphans", "--dry-run"),
    ):
        eyevsai(*command)


@pytest.mark.processes("images are decoded in forks")
def test_version_whose_run_is_gone_is_not_evaluated_on_its_training_images(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    data = workplace / "data" / "stripes"
    eyevsai("train", "--data", str(data), *SMALL, "--epochs", "1")
    uri = f"models:/{NAME}/2"
    delete_run(2, for_good=True)
    sorted((data / "across").iterdir())[0].unlink()
    refused = eyevsai("evaluate", "--model-uri", uri, *FAST, code=2).stderr
    assert f"The images of stripes changed since {uri} was trained" in refused
    said = eyevsai("evaluate", "--model-uri", uri, "--data", str(data), *FAST).stderr
    assert f"Cannot check if {uri} was trained on some of the images" in said


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_files_of_a_version_that_were_deleted_by_hand_are_named(
    eyevsai: Eyevsai, workplace: Path, left: str
) -> None:
    folder = Path(MlflowClient().get_model_version_download_uri(NAME, "1").removeprefix("file://"))
    shutil.rmtree(folder)
    if left == "an empty folder":
        folder.mkdir()
    for command in (
        ("predict", URI, image_of(workplace)),
        ("evaluate", "--model-uri", URI),
        ("export", "--model-uri", URI),
    ):
        assert (
            f"The files of {URI} are missing: {folder} is empty or does not exist"
            in eyevsai(*command, code=2).stderr
        )
    assert (
        f"The files of {URI} are missing: {folder}"
        in eyevsai("promote", NAME, "--version", "1", code=1).stderr
    )
    eyevsai("registry", "status", NAME)
    eyevsai("report")
    MlflowClient().set_registered_model_alias(NAME, "live", "1")
    assert f"the files of {URI} ({folder}) are missing" in eyevsai("doctor", code=1).stdout


def test_version_whose_run_lost_its_files_is_evaluated_and_promoted(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    run = MlflowClient().get_run(str(MlflowClient().get_model_version(NAME, "1").run_id))
    shutil.rmtree(run.info.artifact_uri.removeprefix("file://"))
    assert "18 images of stripes" in eyevsai("evaluate", "--model-uri", URI, *FAST).stdout
    assert f"production: {URI}" in eyevsai("promote", NAME, "--version", "1").stdout


@pytest.mark.parametrize(
    "name",
    [
        "MLmodel",
        "requirements.txt",
        "conda.yaml",
        "input_example.json",
        "data/model/model.safetensors",
        "data/model/onnx/model.onnx",
        "data/model/onnx/example.py",
        "data/model/onnx/manifest.json",
    ],
)
def test_no_version_with_a_changed_file_is_promoted(
    eyevsai: Eyevsai, exported: Path, name: str
) -> None:
    folder = Path(MlflowClient().get_model_version_download_uri(NAME, "1").removeprefix("file://"))
    changed = folder / name
    changed.write_bytes(changed.read_bytes() + b"\n")
    refused = eyevsai("promote", NAME, "--version", "1", code=1).stderr
    assert f"{URI} does not load: " in refused
    assert str(changed) in refused


@pytest.fixture(scope="module")
def exported_store(
    tmp_path_factory: pytest.TempPathFactory, trained_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store whose version was evaluated and exported as ONNX."""

    def build(folder: Path) -> None:
        run = extend_trained(trained_store, cache_dir, folder)
        run("evaluate", "--model-uri", URI, *FAST)
        run("export", "--model-uri", URI)

    return once(tmp_path_factory, "exported", build)


@pytest.fixture
def exported(exported_store: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_trained(exported_store, workplace / "exported", monkeypatch)
