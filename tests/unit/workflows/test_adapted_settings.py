"""Batches and crops that follow from the size of the images."""

from __future__ import annotations

import math
from typing import Any

import pytest

from eyevsai.config import TrainConfig, compose_train
from eyevsai.workflows.train.setup import adapt_batch_size, adapt_to_size


def compose(**values: Any) -> TrainConfig:
    return compose_train({"dataset": "pets", "preset": "cpu", **values})


@pytest.mark.parametrize(
    ("size", "num_images", "batch"),
    [
        (32, 40_000, 256),
        (32, 25_600, 256),
        (32, 25_599, 128),  # an epoch has 100 steps or more
        (32, 3_685, 64),
        (48, 40_000, 64),
        (96, 40_000, 64),
    ],
)
@pytest.mark.parametrize("model", ["deep_v1", "deep_v2/hybrid"])
def test_batches_of_many_small_images_are_larger(
    model: str, size: int, num_images: int, batch: int
) -> None:
    config = compose(model=model, image_size=size)
    before = vars(config.model.settings)
    after = vars(adapt_batch_size(config, num_images).model.settings)
    assert (before["batch_size"], after["batch_size"]) == (64, batch)
    assert after["lr"] == pytest.approx(before["lr"] * math.sqrt(batch / 64))


@pytest.mark.parametrize("explicit", [{"batch_size": 64}, {"model": "transfer"}])
def test_explicit_batches_and_those_of_fine_tuning_are_kept(explicit: dict[str, Any]) -> None:
    config = compose(**{"model": "deep_v1", "image_size": 32} | explicit)
    assert adapt_batch_size(config, 40_000) == config


def test_an_explicit_rate_is_kept_with_larger_batches() -> None:
    config = adapt_batch_size(compose(model="deep_v1", image_size=32, lr=0.001), 40_000)
    settings = vars(config.model.settings)
    assert (settings["batch_size"], settings["lr"]) == (256, 0.001)


@pytest.mark.parametrize("model", ["deep_v1", "deep_v2/hybrid"])
def test_small_images_are_not_cropped_at_random(model: str) -> None:
    adapted = adapt_to_size(compose(model=model, image_size=32), 1000)
    settings = vars(adapted.model.settings)
    assert (settings["crop_scale"], settings["crop_margin"]) == (1.0, 1.0)
    unchanged = (
        {"image_size": 48},
        {"image_size": 32, "crop_scale": 0.5},
        {"image_size": 32, "crop_share": 0.6},
        {"image_size": 32, "crop_margin": 1.2},
        {"image_size": 32, "dataset": "digits"},  # the dataset's own crops are larger
    )
    for values in unchanged:
        config = compose(**{"model": model} | values)
        assert adapt_to_size(config, 1000) == config
