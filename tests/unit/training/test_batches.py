"""Batches of an epoch: which images are mirrored, and which are cropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.training.batches import Batches
from eyevsai.training.process_group import SingleProcess
from eyevsai.training.strategy import TrainingStrategy

FLIP_ONLY = DeepV1Settings(
    image_size=32,
    batch_size=64,
    crop_scale=1.0,
    translate=0.0,
    crop_ratio=1.0,
    brightness=0,
    contrast=0,
    saturation=0,
    noise=0,
    random_erasing=0,
)


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    settings = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    return load_dataset(settings).open(Preprocessing(32))


def load(
    data: Data,
    settings: DeepV1Settings,
    epoch: int,
    seed: int = 0,
    position: float = 0.0,
) -> torch.Tensor:
    """Return all train images of an epoch in the order of the split."""
    strategy = TrainingStrategy(torch.nn.Linear(1, 1), settings)
    batches = Batches(
        data.train,
        strategy,
        settings,
        Preprocessing(32),
        seed,
        SingleProcess(),
        torch.device("cpu"),
        len(data.dataset.classes),
    )
    _, (part,) = batches.load(torch.arange(len(data.train)), epoch, 0, 1, position=position)
    return part.inputs


def test_each_image_is_mirrored_in_every_other_epoch(data: Data) -> None:
    first, second, third = (load(data, FLIP_ONLY, epoch) for epoch in (1, 2, 3))
    original = load(data, replace(FLIP_ONLY, flip=False), 1)
    torch.testing.assert_close(second, first.flip(3))
    torch.testing.assert_close(third, first)
    is_mirrored = (first - original).abs().amax((1, 2, 3)) > 1e-3
    assert 0.2 < is_mirrored.float().mean() < 0.8
    torch.testing.assert_close(first[~is_mirrored], original[~is_mirrored])
    torch.testing.assert_close(first[is_mirrored], original[is_mirrored].flip(3))


def test_which_images_begin_mirrored_depends_on_the_seed(data: Data) -> None:
    assert not torch.allclose(load(data, FLIP_ONLY, 1), load(data, FLIP_ONLY, 1, seed=1))


def test_random_crops_end_before_the_training(data: Data) -> None:
    settings = replace(FLIP_ONLY, epochs=10, crop_scale=0.3, translate=0.15, initial_scale=1.0)
    cropped, shifted = (
        load(data, each, 1) for each in (settings, replace(settings, crop_scale=1.0))
    )
    assert not torch.equal(cropped, shifted)
    for crop_share, first in ((0.0, 0.0), (0.5, 5.0), (0.9, 9.0), (1.0, 11.0)):
        ending = replace(settings, crop_share=crop_share)
        for position in (0.0, 4.9, 5.0, 8.9, 9.0, 10.0):
            expected = shifted if position >= first else cropped
            assert torch.equal(load(data, ending, 1, position=position), expected)
