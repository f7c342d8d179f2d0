"""A pruned network is smaller, learns again, and comes back from its folder as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.nn import BatchNorm2d, Conv2d

from eyevsai.core.errors import UserError
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import FAMILIES, build, get_family
from eyevsai.models.learner import NetworkModel
from eyevsai.models.serialization import load, save
from tests.conftest import draw_image

OWN: dict[str, dict[str, Any]] = {"transfer": {"weights": "none"}, "deep_v2": {"attention": "self"}}
PAIRS = [(family, variation) for family in FAMILIES for variation in get_family(family).variations]
PAIRS = [pair for pair in PAIRS if pair[0] != "shallow"]
QUICK = [
    ("deep_v1", "residual"),
    ("deep_v2", "densenet"),
    ("deep_v2", "hybrid"),
    ("transfer", "mobilenet_v2"),
]
IMAGES = np.stack([draw_image(number % 3, number, 40, 40) for number in range(6)])


def make(family: str, variation: str, **settings: Any) -> NetworkModel:
    declared = get_family(family).variations[variation].settings
    learner = build(
        family,
        variation,
        declared(image_size=32, **OWN.get(family, {}) | settings),
        tuple("abc"),
        0,
    )
    assert isinstance(learner, NetworkModel)
    return learner


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(pair, marks=[] if pair in QUICK else [pytest.mark.slow], id="/".join(pair))
        for pair in PAIRS
    ],
)
def test_a_pruned_network_is_saved_and_loaded(pair: tuple[str, str], tmp_path: Path) -> None:
    learner = make(*pair)
    whole, channels = learner.num_parameters(), learner.network.state_dict()
    flops = learner.summary().flops
    learner.temperature = 2.0
    learner.prune(0.3)
    assert learner.temperature == 1  # it was fitted to what the whole network said
    assert learner.num_parameters() < 0.75 * whole
    assert (learner.summary().flops or 0) < 0.8 * (flops or 0)
    assert [
        name for name, tensor in learner.tensors().items() if tensor.shape != channels[name].shape
    ]
    said = learner.predict_proba(IMAGES)
    assert said.shape == (6, 3)

    save(learner, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.pruned == pytest.approx(0.3)
    np.testing.assert_array_equal(loaded.predict_proba(IMAGES), said)

    learner.prune(0.5)
    assert learner.pruned == pytest.approx(0.65)
    save(learner, tmp_path / "smaller")
    np.testing.assert_array_equal(
        load(tmp_path / "smaller").predict_proba(IMAGES), learner.predict_proba(IMAGES)
    )


def test_channels_of_the_smallest_weights_go() -> None:
    learner = make("deep_v1", "standard", width=16)
    first, norm, second = [
        layer for layer in learner.network.modules() if isinstance(layer, Conv2d | BatchNorm2d)
    ][:3]
    for group in (first.weight.data[:8], norm.weight.data[:8], second.weight.data[:, :8]):
        group.mul_(1e-3)
    strong = first.weight.detach()[8:].clone()
    learner.prune(0.5)
    kept = next(layer for layer in learner.network.modules() if isinstance(layer, Conv2d)).weight
    np.testing.assert_array_equal(kept.detach().numpy(), strong.numpy())


@pytest.mark.parametrize("pair", [("deep_v1", "standard"), ("transfer", "mobilenet_v2")])
def test_it_learns_again_as_a_whole(pair: tuple[str, str], stripes: Path, cache_dir: Path) -> None:
    dataset = load_dataset(DataSettings(data=str(stripes), cache_dir=str(cache_dir)))
    learner = make(*pair, batch_size=16, threads=1, precision="float32")
    learner.prune(0.3)
    learner.settings = learner.settings.recovery_settings(2)  # type: ignore[attr-defined]
    before, rows = {name: tensor.clone() for name, tensor in learner.tensors().items()}, []
    data = dataset.open(learner.preprocessing)
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(row))
    assert len(rows) == 2
    changed = {name for name, tensor in learner.tensors().items() if not tensor.equal(before[name])}
    assert {name for name, _ in learner.network.named_parameters()} <= changed


def test_what_cannot_be_pruned_is_told() -> None:
    with pytest.raises(UserError, match="removes no channels"):
        make("deep_v1", "standard", width=8).prune(0.01)
    settings = get_family("deep_v1").variations["standard"].settings(lr=1e-2, epochs=30)  # type: ignore[call-arg]
    assert settings.recovery_settings(4) == replace(  # type: ignore[attr-defined]
        settings,
        lr=3e-3,
        epochs=4,
        warmup_epochs=0.8,
        initial_scale=1.0,
        whitening=False,
        crop_share=0.0,  # as at the end of the training
    )
    cropped = replace(settings, crop_share=1.0)  # type: ignore[type-var]
    assert cropped.recovery_settings(4).crop_share == 1.0  # type: ignore[attr-defined]


def test_weights_of_another_size_do_not_fit_what_was_not_pruned(tmp_path: Path) -> None:
    learner = make("deep_v1", "standard")
    learner.prune(0.3)
    learner.pruned = 0.0
    save(learner, tmp_path / "model")
    with pytest.raises(UserError, match="do not fit"):
        load(tmp_path / "model")
