"""Every declared setting reaches what it names: changing it changes the built object or the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eyevsai.core.settings import list_settings
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.factory import build, get_family
from eyevsai.models.serialization import CONFIG, add_checksum, load, read_config, save

BASE = DeepV1Settings(
    image_size=32,
    width=4,
    head_units=8,
    epochs=3,
    batch_size=16,
    precision="float32",
    device="cpu",
    warmup_epochs=0,
    dropout=0.0,
    patience=0,
    threads=1,
)

# What else has to be so for a setting to matter, and the value it is changed to.
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "image_size": ({}, 48),
    "epochs": ({}, 2),
    "pooling": ({}, "late"),
    "initial_scale": ({"image_size": 48}, 1.0),
    "whitening": ({}, False),
    "batch_size": ({}, 8),
    "grad_accum_steps": ({}, 2),
    "optimizer": ({}, "adam"),
    "lr": ({}, 0.01),
    "momentum": ({"optimizer": "sgd"}, 0.5),
    "weight_decay": ({}, 0.5),
    "schedule": ({}, "constant"),
    "warmup_epochs": ({}, 2.0),
    "min_lr_ratio": ({"schedule": "step", "decay_epochs": 1}, 0.5),
    "decay_epochs": ({"schedule": "step", "decay_epochs": 2}, 1),
    "decay_rate": ({"schedule": "step", "decay_epochs": 1}, 0.5),
    "plateau_patience": (
        {"schedule": "plateau", "lr": 0.05, "epochs": 12, "plateau_patience": 50},
        1,
    ),
    "label_smoothing": ({}, 0.3),
    "clip_grad": ({"clip_grad": 0.01}, 0.0),
    "class_weights": ({}, True),
    "patience": ({"lr": 0.05, "epochs": 25}, 1),
    "crop_scale": ({}, 1.0),
    "crop_share": ({}, 0.0),
    "noise": ({}, 0.0),
    "crop_ratio": ({}, 2.0),
    "crop_margin": ({}, 1.0),
    "translate": ({}, 0.2),
    "flip": ({}, False),
    "rotation": ({}, 30.0),
    "brightness": ({}, 0.0),
    "contrast": ({}, 0.0),
    "saturation": ({}, 0.0),
    "random_erasing": ({}, 0.6),
    "auto_augment": ({}, "trivial"),
    "mixup": ({}, 0.4),
    "cutmix": ({}, 1.0),
    "mixup_prob": ({"mixup": 0.4}, 1.0),
    "ema_decay": ({}, 0.9),
    "dropout_warmup_epochs": ({"dropout": 0.5}, 3.0),
    "tta_flip": ({}, True),
    "precision": ({}, "bfloat16"),
    "width": ({}, 8),
    "convolutions": ({}, 1),
    "dropout": ({}, 0.5),
    "head_units": ({}, 0),
}
# These change how a run is computed and not what it computes: see the tests below.
COMPUTE = {"device", "devices", "channels_last", "threads", "memory_efficient"} | {
    "minutes"  # acts through the pace: test_pace.py
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Callable[[int], Data]:
    from tests.conftest import write_images

    folder = write_images(
        tmp_path_factory.mktemp("uneven") / "set", {"across": 20, "down": 14, "wide": 9}
    )
    dataset = load_dataset(DataSettings(data=str(folder), cache_dir=str(cache_dir)))
    return lambda size: dataset.open(Preprocessing(size))


def outcome(data: Callable[[int], Data], settings: DeepV1Settings) -> list[float]:
    """The losses and sizes of a short run, which differ when anything that is computed differs."""
    source = data(settings.image_size)
    learner = DeepV1Learner("standard", settings, source.dataset.classes, 0)
    rows: list[float] = [float(learner.num_parameters())]
    learner.fit(
        source.train,
        source.valid,
        lambda epoch, row: rows.extend((row["train/loss"], row["valid/loss"])),
    )
    return rows


def test_every_setting_is_looked_at() -> None:
    assert set(CHANGES) | COMPUTE == {setting.name for setting in list_settings(DeepV1Settings)}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_changes_the_run(data: Callable[[int], Data], name: str) -> None:
    given, changed = CHANGES[name]
    settings = replace(BASE, **given)
    assert outcome(data, settings) != outcome(data, replace(settings, **{name: changed}))


def test_channels_last_reaches_the_weights(data: Callable[[int], Data]) -> None:
    for wanted in (True, False):
        learner = DeepV1Learner(
            "standard", replace(BASE, channels_last=wanted, epochs=1), ("a", "b", "c"), 0
        )
        learner.fit(data(32).train, data(32).valid, lambda epoch, row: None)
        convolution = learner.network[1].body[0]
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last) == wanted


def test_threads_and_device_reach_torch(data: Callable[[int], Data]) -> None:
    learner = DeepV1Learner("standard", replace(BASE, threads=2, epochs=1), ("a", "b", "c"), 0)
    try:
        learner.fit(data(32).train, data(32).valid, lambda epoch, row: None)
        assert torch.get_num_threads() == 2
        assert learner.compute() == {"device": "cpu", "precision": "float32", "threads": "2"}
    finally:
        torch.set_num_threads(1)


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def test_standard_has_four_blocks_of_doubling_width() -> None:
    network = DeepV1Learner("standard", DeepV1Settings(), ("a", "b"), 0).network
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    channels = [convolution.out_channels for convolution in convolutions]
    assert channels == [32, 32, 64, 64, 128, 128, 256, 256]
    kinds = {
        nn.BatchNorm2d: 8,
        nn.MaxPool2d: 4,
        nn.AdaptiveAvgPool2d: 1,
        nn.Dropout: 1,
        nn.Linear: 1,
    }
    assert {kind: count(network, kind) for kind in kinds} == kinds


def test_residual_adds_a_skip_connection_to_each_block() -> None:
    network = DeepV1Learner("residual", DeepV1Settings(), ("a", "b"), 0).network
    assert sum(getattr(module, "skip", None) is not None for module in network) == 4
    block = network[0]
    images = torch.randn(2, 3, 8, 8)
    network.eval()
    with torch.no_grad():
        for layer in block.body:
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.zero_()  # silences the body: what is left came by the skip
        expected = nn.functional.max_pool2d(torch.relu(block.skip(images)), 2)
        torch.testing.assert_close(block(images), expected)


@pytest.mark.parametrize("variation", ["standard", "residual"])
def test_pooling_before_a_rising_normalisation_changes_no_prediction(variation: str) -> None:
    first, early, late = (
        DeepV1Learner(
            variation, DeepV1Settings(width=4, convolutions=1, pooling=pooling), ("a", "b"), 0
        ).network.eval()
        for pooling in ("first", "early", "late")
    )
    first.load_state_dict(early.state_dict())
    late.load_state_dict(early.state_dict())
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(first(images), early(images))  # one convolution is the last one, too
        if variation == "standard":
            torch.testing.assert_close(early(images), late(images))
        else:  # the maximum of a sum is not the sum of the maxima
            assert not torch.allclose(early(images), late(images))


@pytest.mark.parametrize(("pooling", "side"), [("first", 10), ("early", 20), ("late", 20)])
def test_later_convolutions_of_a_block_see_the_pooled_output_of_the_first(
    pooling: str, side: int
) -> None:
    settings = DeepV1Settings(width=4, pooling=pooling)
    block = DeepV1Learner("standard", settings, ("a", "b"), 0).network[0]
    sides: list[int] = []
    block.body[3].register_forward_hook(lambda layer, inputs, output: sides.append(output.shape[2]))
    assert block(torch.randn(2, 3, 20, 20)).shape == (2, 4, 10, 10)
    assert sides == [side]


def test_model_saved_before_early_pooling_existed_predicts_as_before(tmp_path: Path) -> None:
    learner = DeepV1Learner("residual", DeepV1Settings(width=4, pooling="late"), ("a", "b"), 0)
    learner.network.eval()
    save(learner, tmp_path)
    card = read_config(tmp_path)
    del card["settings"]["pooling"]
    (tmp_path / CONFIG).write_text(json.dumps(add_checksum(card)))
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        load(tmp_path).predict_proba(images), learner.predict_proba(images)
    )


@pytest.mark.parametrize("size", [32, 33, 50, 96, 224, 512])
@pytest.mark.parametrize("classes", [2, 67])
def test_any_size_and_number_of_classes(size: int, classes: int) -> None:
    for variation, settings in (
        ("standard", DeepV1Settings(width=4)),
        ("residual", DeepV1Settings(width=4)),
    ):
        network = DeepV1Learner(
            variation, settings, tuple(map(str, range(classes))), 0
        ).network.eval()
        with torch.no_grad():
            assert network(torch.randn(1, 3, size, size)).shape == (1, classes)


@pytest.mark.parametrize("variation", ["standard", "residual"])
def test_gpu_presets_have_about_5_million_parameters(variation: str) -> None:
    declared = get_family("deep_v1").variations[variation]
    settings = declared.settings(**declared.presets["gpu"])
    learner = build("deep_v1", variation, settings, tuple(map(str, range(67))), 0)
    assert 4.5e6 < learner.num_parameters() < 5.5e6
