"""deep_v2's settings change the network that they name, and computing again changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from eyevsai.config import compose_train
from eyevsai.core.errors import UserError
from eyevsai.core.settings import list_settings
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v2.attention import Cbam, SelfAttention, SqueezeExcitation
from eyevsai.models.deep_v2.blocks import DenseLayer, ResidualLayer, Stage
from eyevsai.models.deep_v2.network import DeepV2Learner
from eyevsai.models.deep_v2.settings import DeepV2Settings, HybridSettings
from eyevsai.models.factory import get_family
from eyevsai.models.serialization import CONFIG, add_checksum, load, read_config, save

VARIATIONS = get_family("deep_v2").variations
TINY: dict[str, Any] = {
    "image_size": 32,
    "width": 8,
    "epochs": 2,
    "batch_size": 16,
    "precision": "float32",
    "device": "cpu",
    "warmup_epochs": 0.0,
    "patience": 0,
}

# The variation in which a setting matters most, what else has to be so, and the value it is changed
# to.
CHANGES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "width": ("resnet", {}, 12),
    "layers": ("resnet", {}, "1,2,1,1"),
    "use_se": ("resnet", {}, False),
    "use_cbam": ("densenet", {}, True),
    "attention": ("resnet", {}, "self"),
    "attention_reduction": ("resnet", {"width": 16}, 2),
    "separable": ("resnet", {}, True),
    "growth_rate": ("densenet", {}, 8),
}
# These change how the network learns and not what it is made of.
LEARNING: dict[str, tuple[str, dict[str, Any], Any]] = {
    "attention_heads": ("hybrid", {"epochs": 4}, 2),
    "stochastic_depth": ("resnet", {}, 0.5),
    "dropout": ("densenet", {}, 0.5),
    "downsampling": ("resnet", {}, "full"),
}


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    settings = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    return load_dataset(settings).open(Preprocessing(32))


def make(variation: str, **settings: Any) -> DeepV2Learner:
    return DeepV2Learner(
        variation, VARIATIONS[variation].settings(**TINY | settings), ("a", "b", "c"), 0
    )


def fitted(data: Data, variation: str, **settings: Any) -> tuple[DeepV2Learner, list[float]]:
    learner, losses = make(variation, **settings), []
    learner.fit(
        data.train,
        data.valid,
        lambda epoch, row: losses.extend((row["train/loss"], row["valid/loss"])),
    )
    return learner, losses


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def test_every_setting_of_its_own_is_looked_at() -> None:
    own = {setting.name for setting in list_settings(HybridSettings) if setting.panel == "deep_v2"}
    assert set(CHANGES) | set(LEARNING) | {"gradient_checkpointing"} == own


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_changes_the_network(name: str) -> None:
    variation, given, changed = CHANGES[name]
    sizes = [make(variation, **given, **other).num_parameters() for other in ({}, {name: changed})]
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize("name", LEARNING)
def test_a_changed_setting_changes_what_is_learned(data: Data, name: str) -> None:
    variation, given, changed = LEARNING[name]
    assert (
        fitted(data, variation, **given)[1]
        != fitted(data, variation, **{**given, name: changed})[1]
    )


def test_attention_is_there_by_name() -> None:
    network = make("resnet", layers="2,1,1,2").network
    kinds = {
        ResidualLayer: 6,
        SqueezeExcitation: 6,
        Cbam: 1,
        SelfAttention: 0,
        DenseLayer: 0,
        StochasticDepth: 6,
    }
    assert {kind: count(network, kind) for kind in kinds} == kinds
    network = make("hybrid", layers="1,3,2").network
    kinds = {ResidualLayer: 3, DenseLayer: 3, SqueezeExcitation: 6, Cbam: 1, SelfAttention: 1}
    assert {kind: count(network, kind) for kind in kinds} == kinds
    assert isinstance(network.stages[2][-1], SelfAttention)
    network = make("densenet", layers="1,1,1,2").network
    kinds = {DenseLayer: 5, SqueezeExcitation: 5, Cbam: 0, SelfAttention: 0}
    assert {kind: count(network, kind) for kind in kinds} == kinds
    assert count(make("densenet", use_cbam=True).network, Cbam) == 1


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize("size", [32, 48, 64, 80, 96, 128, 224])
def test_last_stage_sees_four_positions_or_more_along_a_side(variation: str, size: int) -> None:
    network = make(variation, image_size=size).network
    seen: list[int] = []
    network.stages[-1].register_forward_hook(lambda *call: seen.append(call[2].shape[-1]))
    network.eval()(torch.zeros(1, 3, size, size))
    full = make(variation, image_size=size, downsampling="full").network
    full.stages[-1].register_forward_hook(lambda *call: seen.append(call[2].shape[-1]))
    full.eval()(torch.zeros(1, 3, size, size))
    assert seen[0] >= 4
    assert seen[0] == seen[1] or seen[1] < 4


def test_model_saved_before_downsampling_existed_predicts_as_before(tmp_path: Path) -> None:
    learner = make("densenet", downsampling="full")
    learner.network.eval()
    save(learner, tmp_path)
    card = read_config(tmp_path)
    del card["settings"]["downsampling"]
    (tmp_path / CONFIG).write_text(json.dumps(add_checksum(card)))
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        load(tmp_path).predict_proba(images), learner.predict_proba(images)
    )


def test_a_separable_convolution_has_a_filter_for_each_channel() -> None:
    grouped = [
        each
        for each in make("hybrid").network.modules()
        if isinstance(each, nn.Conv2d) and each.groups > 1
    ]
    assert len(grouped) == 2 * 4 + 6  # two in each residual layer, one in each dense layer
    assert all(each.groups == each.in_channels for each in grouped)
    assert make("resnet", separable=True).num_parameters() < make("resnet").num_parameters() / 3


def test_stochastic_depth_rises_from_the_first_layer_to_the_last() -> None:
    network = make("resnet", stochastic_depth=0.4, layers="1,1,1,1").network
    assert [
        each.p for each in network.modules() if isinstance(each, StochasticDepth)
    ] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_an_identity_stays_one() -> None:
    layer = make("resnet").network.stages[0][0].eval()
    features = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        layer.shrink(0)  # silences what is added
        torch.testing.assert_close(layer(features.clone()), features)


def test_self_attention_looks_at_all_places_and_at_first_adds_nothing() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2).eval()
    features = torch.randn(1, 8, 4, 4, requires_grad=True)
    torch.testing.assert_close(attention(features), features)
    with torch.no_grad():
        attention.share.fill_(1.0)
    attention(features)[0, :, 0, 0].sum().backward()
    assert (features.grad[0].abs().sum(0) > 0).all()


@pytest.mark.parametrize("variation", VARIATIONS)
def test_computing_again_changes_no_weight_and_no_statistic(data: Data, variation: str) -> None:
    kept, losses = fitted(data, variation, stochastic_depth=0.3, dropout=0.3)
    again, others = fitted(
        data, variation, stochastic_depth=0.3, dropout=0.3, gradient_checkpointing=True
    )
    assert all(stage.recomputes for stage in again.network.modules() if isinstance(stage, Stage))
    assert others == losses
    for name, tensor in kept.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name


def test_memory_efficient_computes_again_too() -> None:
    assert all(each.recomputes for each in make("resnet", memory_efficient=True).network.stages)
    assert not any(each.recomputes for each in make("resnet").network.stages)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_gpu_presets_have_about_25_million_parameters(variation: str) -> None:
    settings = compose_train(
        {"model": "deep_v2", "variation": variation, "preset": "gpu", "dataset": "pets"}
    ).model.settings
    assert isinstance(settings, DeepV2Settings)
    learner = DeepV2Learner(variation, settings, tuple(map(str, range(67))), 0)
    assert 22.5e6 < learner.num_parameters() < 27.5e6


@pytest.mark.parametrize("size", [32, 33, 50, 96])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_any_size_and_number_of_classes(variation: str, size: int) -> None:
    for classes in (2, 67):
        settings = replace(make(variation).settings, image_size=size)
        network = DeepV2Learner(
            variation, settings, tuple(map(str, range(classes))), 0
        ).network.eval()
        with torch.no_grad():
            assert network(torch.randn(1, 3, size, size)).shape == (1, classes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": "2,2"}, "has 2 stages; this variation has 4"),
        ({"layers": "2,x,2,2"}, "--layers takes numbers of 1 to 64"),
        ({"layers": "2,0,2,2"}, "--layers takes numbers of 1 to 64"),
        ({"variation": "hybrid", "layers": "2,2,2,2"}, "has 4 stages"),
    ],
)
def test_wrong_layers_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_train({"model": "deep_v2", **given})


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize("heads", [1, 4, 7])
def test_any_number_of_heads_looks_at_any_number_of_channels(variation: str, heads: int) -> None:
    network = make(variation, attention="self", attention_heads=heads).network.eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_separable_reaches_every_variation(variation: str) -> None:
    sizes = [make(variation, separable=each).num_parameters() for each in (True, False)]
    assert sizes[0] < sizes[1]


def test_a_depthwise_convolution_begins_as_wide_as_another() -> None:
    learner = make("resnet", width=64, separable=True)
    grouped = [
        each
        for each in learner.network.modules()
        if isinstance(each, nn.Conv2d) and each.groups > 1
    ]
    for convolution in grouped:
        assert convolution.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.15)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_attention_weighs_everything_alike_at_first(variation: str) -> None:
    network = make(variation, use_se=True, use_cbam=True, attention="self").network
    parts = [
        part
        for part in network.modules()
        if isinstance(part, SqueezeExcitation | Cbam | SelfAttention)
    ]
    assert len(parts) > 2
    for part in parts:
        channels = next(
            layer.in_channels for layer in part.modules() if isinstance(layer, nn.Conv2d)
        )
        features = torch.randn(2, channels, 4, 4)
        torch.testing.assert_close(part(features), features)
