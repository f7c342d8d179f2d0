"""Inference with a trained network."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from eyevsai.data.dataset import Split
from eyevsai.data.pixel_cache import PixelCache
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.training.inference import evaluating


def test_the_mode_of_each_module_is_restored() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    network[1].eval()
    network[1][0].train()
    before = [module.training for module in network.modules()]

    def fail() -> None:
        with evaluating(network):
            assert not any(module.training for module in network.modules())
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert [module.training for module in network.modules()] == before


def test_a_network_in_evaluation_mode_is_not_traversed_to_change_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    monkeypatch.setattr(network, "train", lambda mode=True: pytest.fail("the mode was changed"))
    with evaluating(network):
        assert network(torch.zeros(1, 2)).shape == (1, 2)


def test_fit_and_prediction_hold_a_few_images_at_a_time() -> None:
    size, count = 96, 300
    side = Preprocessing(size).short_side_px
    flat = np.zeros(3 * count * side**2, dtype=np.uint8)
    shapes = np.full((count, 2), side, dtype=np.int32)
    pixels = PixelCache(flat, shapes, np.arange(count, dtype=np.int64) * 3 * side**2)
    train, valid = (
        Split(pixels, range(length), torch.arange(length) % 2) for length in (16, count)
    )
    settings = DeepV1Settings(
        image_size=size, width=4, epochs=1, batch_size=16, precision="float32", device="cpu"
    )
    learner = DeepV1Learner("standard", settings, ("a", "b"), 0)
    learner.fit(train, train, lambda *_: None)  # imports
    tracemalloc.start()
    try:
        learner.fit(train, valid, lambda *_: None)
        assert len(learner.predict_proba(valid.arrays())) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < flat.nbytes / 4


def test_arrays_of_a_split_are_a_sequence_that_is_read_on_access() -> None:
    flat = np.arange(4 * 12, dtype=np.uint8)
    shapes = np.full((4, 2), 2, dtype=np.int32)
    pixels = PixelCache(flat, shapes, np.arange(4, dtype=np.int64) * 12)
    arrays = Split(pixels, [3, 1, 0], torch.zeros(3, dtype=torch.int64)).arrays()
    firsts = [int(image[0, 0, 0]) for image in arrays]
    assert firsts == [36, 12, 0]
    assert len(arrays) == 3
    assert int(arrays[-1][0, 0, 0]) == 0
    assert [int(image[0, 0, 0]) for image in arrays[1:]] == [12, 0]
    with pytest.raises(IndexError):
        arrays[3]
    assert len(Split(pixels, [3, 1, 0], torch.zeros(3)).arrays([2])) == 1
