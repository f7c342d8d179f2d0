"""The plan of a time budget, with the speed of a slow machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from eyevsai.config import compose_train
from eyevsai.data.dataset import load_dataset
from eyevsai.training.pace import TimeBudget
from eyevsai.workflows.train import setup, time_plan
from eyevsai.workflows.train.probe import Speed
from tests.conftest import write_images


@pytest.mark.parametrize(
    ("explicit", "size", "batch"),
    [({}, 32, 256), ({"batch_size": 8}, 32, 8), ({"image_size": 96}, 96, 64)],
)
def test_images_that_the_plan_shrinks_have_larger_batches_too(
    explicit: dict[str, Any],
    size: int,
    batch: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[int] = []

    def measure(config: Any, dataset: Any) -> Speed:
        del dataset
        measured.append(config.model.settings.batch_size)
        return Speed(train=1.0, evaluation=100.0)

    monkeypatch.setattr(time_plan, "measure_speed", measure)
    monkeypatch.setattr(setup, "MIN_STEPS", 0.01)  # instead of 12,800 images
    data = write_images(tmp_path / "images", {"a": 12, "b": 12})
    given = {"model": "deep_v1", "data": str(data), "minutes": 1.0, "preset": "cpu"}
    config = compose_train({**given, "cache_dir": str(tmp_path / "cache"), **explicit})
    dataset = load_dataset(config.data)
    planned, plan = time_plan.plan_training(config, dataset, TimeBudget(60.0, time.monotonic()))
    settings = vars(planned.model.settings)
    assert (settings["image_size"], plan.image_size) == (size, size)
    assert settings["batch_size"] == measured[-1] == batch
    assert settings["epochs"] == plan.epochs


@pytest.mark.parametrize(
    ("explicit", "images_per_s", "name", "epochs"),
    [
        ({"model": "deep_v1"}, 1e6, "epochs", 10_000),
        ({"model": "transfer"}, 1e6, "fine_tune_epochs", 10_000),
        ({"model": "transfer"}, 1e-3, "fine_tune_epochs", 0),
        ({"model": "transfer", "mixup": 0.2}, 1e-3, "fine_tune_epochs", 1),
    ],
)
def test_planned_epochs_are_allowed(
    explicit: dict[str, Any],
    images_per_s: float,
    name: str,
    epochs: int,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A short epoch fits many times; mixup has no effect without an epoch of fine-tuning."""
    speed = Speed(images_per_s, images_per_s)
    monkeypatch.setattr(time_plan, "measure_speed", lambda *_: speed)
    data = write_images(tmp_path / "images", {"a": 12, "b": 12})
    given = {"data": str(data), "minutes": 10.0, "preset": "cpu"}
    config = compose_train({**given, "cache_dir": str(tmp_path / "cache"), **explicit})
    budget = TimeBudget(600.0, time.monotonic())
    planned, _ = time_plan.plan_training(config, load_dataset(config.data), budget)
    assert getattr(planned.model.settings, name) == epochs
