"""`monitor drift`, as a person uses it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from eyevsai.serving.model_dir import REFERENCE_FOLDER
from tests.conftest import (
    SMALL,
    Eyevsai,
    copy_trained,
    experiments,
    move_paths,
    once,
    write_images,
)
from tests.e2e.stripes import NAME, VERSION, train_version
from tests.html_pages import check_self_contained
from tests.invoke import invoke


@pytest.fixture(scope="session")
def evaluated_store(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of one version, evaluated on 120 images; never write to it."""

    def build(folder: Path) -> None:
        run = train_version(folder, template_store, cache_dir)
        copy = folder.parent / "trained_only"
        shutil.copytree(folder, copy)
        move_paths(copy / "mlflow.db", folder, copy)
        run("evaluate", VERSION, "--corruption-images", "0")

    return once(tmp_path_factory, "evaluated", build)


@pytest.fixture
def workplace(evaluated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_trained(evaluated_store, tmp_path / "project", monkeypatch)


@pytest.fixture
def same(tmp_path: Path) -> Path:
    """Return a folder of new images of the same kind."""
    return write_images(tmp_path / "same", {"across": 20, "down": 20, "wide": 20}, start=500)


@pytest.fixture
def noisy(same: Path, tmp_path: Path) -> Path:
    """Return a folder of images that are darker and noisy."""
    for path in same.rglob("*.png"):
        target = tmp_path / "noisy" / f"{path.parent.name}_{path.name}"
        target.parent.mkdir(exist_ok=True)
        pixels = np.asarray(Image.open(path)) // 3
        noise = np.random.default_rng(len(str(path))).integers(0, 120, pixels.shape)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(target)
    return tmp_path / "noisy"


def reference_folder(workplace: Path) -> Path:
    (card,) = workplace.rglob(f"{REFERENCE_FOLDER}/reference.json")
    return card.parent


def test_evaluate_stores_the_test_split_as_reference(workplace: Path) -> None:
    card = json.loads((reference_folder(workplace) / "reference.json").read_text())
    assert (card["split"], card["is_provisional"]) == ("test", False)
    assert card["images"] == card["stored_images"] == 120
    assert card["classes"] == ["across", "down", "wide"]
    assert "eyevsai.reference_sha256" in MlflowClient().get_model_version(NAME, "1").tags
    run = MlflowClient().get_run(MlflowClient().get_model_version(NAME, "1").run_id)
    assert card["baseline"]["accuracy"] == pytest.approx(run.data.metrics["test_accuracy"])


def test_images_of_the_same_kind_raise_no_alarm(eyevsai: Eyevsai, same: Path) -> None:
    output = eyevsai("monitor", "drift", VERSION, str(same)).stdout
    assert "no alarm" in output
    assert "Compared with 120 images of the test split of models:/" in output
    report = json.loads(eyevsai("monitor", "drift", VERSION, str(same), "--json").stdout)
    (window,) = report["folders"][0]["windows"]
    assert not report["is_alarm"]
    assert window["images"] == 60
    assert window["log_p"] > np.log(0.001)
    predicted = json.loads(
        "[" + ",".join(eyevsai("predict", VERSION, str(same), "--json").stdout.splitlines()) + "]"
    )
    mean = np.mean([max(each["probabilities"].values()) for each in predicted])
    assert window["confidence"]["window_mean"] == pytest.approx(mean, abs=1e-3)


def test_changed_images_raise_an_alarm_which_is_explained_and_logged(
    eyevsai: Eyevsai, noisy: Path, same: Path, workplace: Path
) -> None:
    output = eyevsai("monitor", "drift", VERSION, str(same), str(noisy), code=1).stdout
    assert "ALARM" in output
    assert "darker" in output
    (run,) = [
        each
        for each in MlflowClient().search_runs(experiments())
        if each.data.tags.get("eyevsai.job") == "monitor"
    ]
    assert run.info.status == "FINISHED"
    assert run.data.tags["alarm"] == "True"
    assert run.data.tags["model_uri"] == f"models:/{NAME}/1"
    history = MlflowClient().get_metric_history(run.info.run_id, "drift_log_p")
    assert [metric.step for metric in history] == [0, 1]
    assert history[1].value < np.log(0.001) < history[0].value
    assert {each.path for each in MlflowClient().list_artifacts(run.info.run_id)} >= {
        "drift.html",
        "drift.json",
    }
    content = (workplace / "drift.html").read_text()
    page = check_self_contained(content)
    assert "Windows with drift 1 of 2" in page.text
    assert "Brightness" in page.text
    assert content.count('alt="image predicted as') == 24
    assert run.info.run_id in content


@pytest.mark.processes("more than 64 images are decoded in parallel")
def test_streams_are_divided_into_windows(eyevsai: Eyevsai, noisy: Path, tmp_path: Path) -> None:
    others = write_images(tmp_path / "others", {"across": 40, "down": 40, "wide": 40}, start=700)
    stream = tmp_path / "stream"
    stream.mkdir()
    for number, path in enumerate(sorted(others.rglob("*.png"))):
        shutil.copy(path, stream / f"0_{number:03d}.png")

    def check(code: int) -> list[bool]:
        """Return for each window of 40 images if it drifted."""
        command = ("monitor", "drift", VERSION, str(stream), "--window", "40", "--json")
        (folder,) = json.loads(eyevsai(*command, code=code).stdout)["folders"]
        assert [each["images"] for each in folder["windows"][:-1]] == [40] * (
            len(folder["windows"]) - 1
        )
        return [each["is_alarm"] for each in folder["windows"]]

    # sorted by class, the windows of a stream have other class shares
    drifted = check(1)
    assert len(drifted) == 3
    for path in stream.iterdir():
        path.unlink()
    shuffled = np.random.default_rng(0).permutation(sorted(map(str, others.rglob("*.png"))))
    for number, path in enumerate(shuffled):
        shutil.copy(path, stream / f"0_{number:03d}.png")
    assert check(0) == [False] * 3
    for number, path in enumerate(sorted(noisy.iterdir())):
        shutil.copy(path, stream / f"1_{number:03d}.png")
    # 180 images: 120 unchanged, then 60 in windows of 40 and of 20, which is part of the last one
    assert check(0) == [False, False, False, True]


def test_a_reference_of_the_valid_split_is_provisional(
    evaluated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Path
) -> None:
    folder = evaluated_store.parent / "trained_only"
    project = copy_trained(folder, tmp_path / "other", monkeypatch)
    result = invoke(project, "monitor", "drift", VERSION, str(same), code=None)
    assert "is provisional" in result.stderr
    assert "eyevsai evaluate" in result.stderr
    assert "of the valid split" in result.stdout


def test_no_message_suggests_an_evaluation_without_a_test_split(
    eyevsai: Eyevsai, same: Path, workplace: Path
) -> None:
    flags = ("--valid-fraction", "0.4", "--test-fraction", "0", "--epochs", "1", *SMALL)
    eyevsai("train", "--model", "deep_v1", "--data", str(workplace / "data" / "stripes"), *flags)
    version = f"{NAME}/2"
    errors = eyevsai("monitor", "drift", version, str(same), code=None).stderr
    assert "is provisional" in errors
    assert "Its test split has 0 images, and a reference of it requires 30" in " ".join(
        errors.split()
    )
    assert "eyevsai evaluate" not in errors
    for card in workplace.rglob(f"{REFERENCE_FOLDER}/reference.json"):
        shutil.rmtree(card.parent)
    errors = eyevsai("monitor", "drift", version, str(same), code=2).stderr
    assert "has no drift reference. Its test split has 0 images" in " ".join(errors.split())


def test_versions_without_a_valid_reference_are_rejected(
    eyevsai: Eyevsai, same: Path, workplace: Path
) -> None:
    folder = reference_folder(workplace)
    card = folder / "reference.json"
    card.write_text(card.read_text().replace('"images": 120', '"images": 121'))
    failed = eyevsai("monitor", "drift", VERSION, str(same), code=2).stderr
    assert "has changed since it was stored" in failed
    refused = eyevsai("promote", VERSION, code=None)
    assert "has changed since it was stored" in refused.stdout + refused.stderr
    assert f"eyevsai evaluate {VERSION}" in failed
    shutil.rmtree(folder)
    failed = eyevsai("monitor", "drift", VERSION, str(same), code=2).stderr
    assert "has no drift reference" in failed
    eyevsai("evaluate", VERSION, "--corruption-images", "0")
    eyevsai("monitor", "drift", VERSION, str(same))


def test_bad_input_ends_with_a_message(eyevsai: Eyevsai, same: Path, tmp_path: Path) -> None:
    def fails(*arguments: str) -> str:
        return str(eyevsai("monitor", "drift", *arguments, code=2).stderr)

    (tmp_path / "empty").mkdir()
    assert "There are no images in" in fails(VERSION, str(tmp_path / "empty"))
    assert "There is no image file or folder nowhere" in fails(VERSION, "nowhere")
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(same.rglob("*.png"))[:29]:
        shutil.copy(path, few / f"{path.parent.name}{path.name}")
    (few / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "has 29 images and 1 that cannot be read" in fails(VERSION, str(few))
    assert "30 to" in fails(VERSION, str(same), "--window", "10")
    assert "--page" in fails(VERSION, str(same), "--page", "nowhere/page.html")


def test_unreadable_images_are_listed(eyevsai: Eyevsai, same: Path) -> None:
    (same / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    output = eyevsai("monitor", "drift", VERSION, str(same)).stdout
    assert "not used:" in output
    assert "damaged.png" in output
