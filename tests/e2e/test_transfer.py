"""Transfer learning, as a person starts it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.models.factory import get_family
from eyevsai.models.transfer.backbones import BACKBONES
from eyevsai.models.transfer.pretrained import LITE_PACKAGE
from tests.conftest import Eyevsai, draw_image, experiments
from tests.e2e.conftest import MlflowRun
from tests.e2e.test_train import only_run

SHORT = {
    "image_size": 32,
    "freeze_epochs": 3,
    "fine_tune_epochs": 2,
    "unfreeze_stages": 2,
    "feature_views": 2,
    "batch_size": 8,
    "threads": 1,
}
FLAGS = [part for name, value in SHORT.items() for part in (f"--{name}", str(value))]
OTHERS = [name for name in get_family("transfer").variations if name != "efficientnet_lite0"]


def given(**settings: object) -> list[str]:
    return [
        part for name, value in (SHORT | settings).items() for part in ("-P", f"{name}={value}")
    ]


def test_base_that_pip_brought_is_unfrozen_gradually(entry_point: Eyevsai, stripes: Path) -> None:
    pytest.importorskip(LITE_PACKAGE, reason="the extra [offline] is not installed")
    lite0 = {"model": "transfer", "variation": "efficientnet_lite0", "unfreezing": "gradual"}
    settings = given(**lite0, data=stripes, image_size=64)
    assert "models:/stripes-transfer-efficientnet_lite0/1" in entry_point("train", *settings).stdout
    run, client = only_run(), MlflowClient()
    history = {
        name: [point.value for point in client.get_metric_history(run.info.run_id, name)]
        for name in ("unfrozen_stages", "trainable_parameters")
    }
    assert history["unfrozen_stages"] == [0, 1, 2]
    assert history["trainable_parameters"] == sorted(history["trainable_parameters"])
    assert run.data.metrics["best_valid_accuracy"] > 0.8
    classifier = package.load("models:/stripes-transfer-efficientnet_lite0/1")
    assert classifier.predict(draw_image(0, 77)).label == "across"


@pytest.mark.slow
@pytest.mark.parametrize("variation", OTHERS)
def test_mlflow_run_trains_every_base(
    mlflow_run: MlflowRun, stripes: Path, tmp_path: Path, variation: str
) -> None:
    torch.save(BACKBONES[variation].build().state_dict(), tmp_path / "weights.pth")
    settings = given(
        model="transfer", variation=variation, data=stripes, weights=tmp_path / "weights.pth"
    )
    assert f"models:/stripes-transfer-{variation}/1" in mlflow_run("train", *settings).stdout


@pytest.mark.parametrize("case", ["other", "torn", "hostile", "absent", "offline"])
def test_weights_that_cannot_be_used_are_told_before_a_run_is_made(
    eyevsai: Eyevsai, stripes: Path, tmp_path: Path, case: str
) -> None:
    path, expected = (
        tmp_path / "weights.pth",
        {
            "other": "does not contain the weights of mobilenet_v2",
            "torn": "is truncated or damaged",
            "hostile": "contains pickled objects",
            "absent": "is not a file",
            "offline": "Cannot download",
        }[case],
    )
    if case == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    elif case == "torn":
        torch.save({"weight": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif case == "hostile":
        torch.save({"weight": Path("marker")}, path)
    weights = "imagenet" if case == "offline" else str(path)
    done = eyevsai(
        "train",
        "--model",
        "transfer",
        "--data",
        str(stripes),
        "--weights",
        weights,
        *FLAGS,
        code=2,
        TORCH_HOME=str(tmp_path / "torch"),
        https_proxy="http://127.0.0.1:9",
    )
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not MlflowClient().search_runs(experiments())


def test_the_data_are_a_word_or_the_digits(eyevsai: Eyevsai, stripes: Path) -> None:
    (stripes.parent / "broken.pth").write_bytes(b"no weights")
    unusable = ("--model", "transfer", "--weights", str(stripes.parent / "broken.pth"))
    for command in ("train", "tune"):
        embedded = eyevsai(command, *unusable, code=2).stderr
        assert "No data was named: using the embedded dataset digits. For your images" in embedded
        own = eyevsai(command, str(stripes), *unusable, code=2).stderr
        assert "60 images in 3 classes" in own
        assert "No data was named" not in own
        assert "broken.pth" in own
