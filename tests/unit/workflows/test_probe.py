"""Estimates of the probe that precedes a training with a time budget."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eyevsai.config import compose_train
from eyevsai.data.dataset import load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.workflows.train import probe
from tests.conftest import write_images


def test_decoding_is_estimated_without_its_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call imports a decoder, which counted as many times as there are images."""
    data = write_images(tmp_path / "images", {"a": 12, "b": 12})
    dataset = load_dataset(DataSettings(data=str(data), cache_dir=str(tmp_path / "cache")))
    durations: list[float] = []

    def resize(*arguments: Any) -> torch.Tensor:
        del arguments
        durations.append(0.5 if durations else 100.0)
        return torch.zeros(32, 32, 3, dtype=torch.uint8)

    monkeypatch.setattr(probe, "resize_sample", resize)
    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: sum(durations)))
    monkeypatch.setattr(probe, "count_cores", lambda: 2)
    assert probe.measure_decoding(dataset, Preprocessing(32)) == pytest.approx(24 * 0.5 / 2)


@pytest.mark.parametrize("explicit", [{"class_weights": True}, {"mixup": 0.4}, {"cutmix": 1.0}])
def test_speed_of_a_model_with_more_classes_than_the_probe_has_images(
    explicit: dict[str, Any], tmp_path: Path
) -> None:
    data = write_images(tmp_path / "images", {f"class {number}": 4 for number in range(9)})
    small = {"image_size": 32, "width": 4, "batch_size": 4, "mixup_prob": 1.0}
    folders = {"data": str(data), "cache_dir": str(tmp_path / "cache")}
    config = compose_train({"model": "deep_v1"} | small | folders | explicit)
    speed = probe.measure_speed(config, load_dataset(config.data))
    assert min(speed.train, speed.evaluation) > 0
