"""Batches of an epoch: which images are mirrored."""

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
    crop_ratio=1.0,
    brightness=0,
    contrast=0,
    saturation=0,
    random_erasing=0,
)


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    settings = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    return load_dataset(settings).open(Preprocessing(32))


def load(data: Data, settings: DeepV1Settings, epoch: int, seed: int = 0) -> torch.Tensor:
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
    _, (part,) = batches.load(torch.arange(len(data.train)), epoch, 0, 1)
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
