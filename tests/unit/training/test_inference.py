"""Inference with a trained network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
