"""`eyevsai recommend`: what to train on a folder, as a line to type."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.conftest import Eyevsai, write_images


@pytest.fixture
def pictures(workplace: Path) -> Path:
    return write_images(workplace / "my pictures", {"a": 60, "b": 12})


@pytest.mark.processes("features are extracted in worker processes")
def test_recommended_command_trains_on_the_folder(
    eyevsai: Eyevsai, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyevsai.workflows.recommend.is_at_hand", lambda name: False)
    printed = eyevsai("recommend", str(pictures), "--minutes", "0.2").stdout
    assert "72 images in 2 classes" in printed
    for model in ("shallow/svm_hog_lbp", "deep_v1/standard", "deep_v2/resnet"):
        assert f"  {model}" in printed
    assert "--class-weights true counts all classes equally" in printed
    assert "eyevsai install offline --run" in printed  # the better choice, and how to get it
    (line,) = [each for each in printed.splitlines() if each.startswith("Recommended: ")]
    command = shlex.split(line.removeprefix("Recommended: "))
    assert command[:3] == ["eyevsai", "train", str(pictures)]
    assert "models:/" in eyevsai(*command[1:]).stdout


@pytest.mark.processes("features are extracted in worker processes")
def test_pretrained_network_is_recommended_if_its_weights_are_here(
    eyevsai: Eyevsai, pictures: Path
) -> None:
    result = json.loads(eyevsai("recommend", str(pictures), "--minutes", "3", "--json").stdout)
    assert result["better"] == ""
    assert result["dataset"]["imbalance"] > 3
    assert result["candidates"][0]["model"] == "transfer/efficientnet_lite0"
    command = shlex.split(result["candidates"][0]["command"])
    assert command[-2:] == ["--minutes", "3"]


@pytest.mark.processes("features are extracted in worker processes")
def test_the_plain_network_is_recommended_without_weights(
    eyevsai: Eyevsai, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyevsai.workflows.recommend.is_at_hand", lambda name: False)
    result = json.loads(eyevsai("recommend", str(pictures), "--minutes", "3", "--json").stdout)
    models = [each["model"] for each in result["candidates"]]
    assert models[:2] == ["deep_v1/standard", "deep_v2/resnet"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Name a folder or --dataset, and not both"),
        (("nowhere",), "nowhere"),
        (("--dataset", "digits", "--minutes", "0"), "--minutes 0.0 is not allowed"),
    ],
)
def test_unusable_call_is_refused(
    eyevsai: Eyevsai, workplace: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in eyevsai("recommend", *words, code=2).stderr
