"""Weights files of other programs: wrappers, prefixes, averages, and files that do not fit."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from eyevsai.core.errors import UserError
from eyevsai.models.transfer.backbones import BACKBONES
from eyevsai.models.transfer.weights_file import load_weights, read_state_dicts
from tests.conftest import PHOTOS
from tests.unit.large import no_large_init

MOBILENET = BACKBONES["mobilenet_v2"]
State = Mapping[str, Tensor]


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def zeros(state: State) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def compiled_inside(state: State) -> dict[str, Tensor]:
    return {name.replace("features.3.", "features.3._orig_mod."): t for name, t in state.items()}


LIGHTNING = {"epoch": 3, "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 0.1}}
CHECKPOINTS: dict[str, Callable[[State], Any]] = {
    "torch.compile": lambda w: prefixed("_orig_mod.", w),
    "compiled part": compiled_inside,
    "DDP": lambda w: prefixed("module.", w),
    "DDP of compiled": lambda w: {"model": prefixed("module._orig_mod.", w)},
    "compiled DDP": lambda w: {"model_state_dict": prefixed("_orig_mod.module.", w)},
    "FSDP": lambda w: prefixed("_fsdp_wrapped_module.", w),
    "Lightning": lambda w: LIGHTNING | {"state_dict": prefixed("model.", w)},
    "Lightning, net, with a loss": lambda w: (
        LIGHTNING
        | {"state_dict": {"criterion.weight": torch.ones(3), **prefixed("net._orig_mod.", w)}}
    ),
    "any attribute": lambda w: {"state_dict": prefixed("encoder_q.0.", w)},
    "Fabric": lambda w: {"net": prefixed("_forward_module.", w), "optimizer": {"state": {0: {}}}},
    "timm": lambda w: {"arch": "x", "args": argparse.Namespace(lr=0.1), "state_dict": w},
    "timm EMA": lambda w: {"state_dict": zeros(w), "state_dict_ema": w, "metric": 0.9},
    "torchvision EMA": lambda w: {
        "model": prefixed("module.", zeros(w)),
        "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", w)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
    },
    "EMA in one state dict": lambda w: {
        "state_dict": prefixed("model.", zeros(w)) | prefixed("ema_model.module.", w)
    },
    "nested": lambda w: {"checkpoint": {"model": {"state_dict": prefixed("backbone.", w)}}},
    "bare features": lambda w: {
        "model": {
            f"module.{name.removeprefix('features.')}": tensor
            for name, tensor in w.items()
            if name.startswith("features.")
        }
    },
}


def load(path: Path, variation: str = "mobilenet_v2") -> nn.Module:
    network = BACKBONES[variation].build()
    load_weights(BACKBONES[variation], network, path)
    return network


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return MOBILENET.build().state_dict()


def assert_equal(network: nn.Module, weights: State, classifier: str = "classifier.") -> None:
    loaded = network.state_dict()
    names = [name for name in loaded if not name.startswith(classifier)]
    assert [name for name in names if not torch.equal(loaded[name], weights[name])] == []


@pytest.mark.parametrize("origin", CHECKPOINTS)
def test_checkpoint_is_unwrapped(origin: str, weights: State, tmp_path: Path) -> None:
    torch.save(CHECKPOINTS[origin](weights), tmp_path / "it.ckpt")
    assert_equal(load(tmp_path / "it.ckpt"), weights)


def test_averaged_weights_are_preferred_and_logged(
    weights: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(CHECKPOINTS["timm EMA"](weights), tmp_path / "it.pth")
    with caplog.at_level(logging.INFO, "eyevsai"):
        load(tmp_path / "it.pth")
    assert "Loading the averaged (EMA) weights state_dict_ema.* of " in caplog.text
    assert "not used: state_dict.*" in caplog.text


def test_incomplete_averaged_weights_are_not_taken(weights: State, tmp_path: Path) -> None:
    parameters = {name: t for name, t in zeros(weights).items() if "running" not in name}
    torch.save({"model": weights, "model_ema": parameters}, tmp_path / "it.pth")
    assert_equal(load(tmp_path / "it.pth"), weights)


def face_name(name: str) -> str:
    """Return the name that Hugging Face transformers has for a weight of torchvision's ResNet."""
    words = {"conv": "convolution", "bn": "normalization"}
    name = re.sub(
        r"^(conv|bn)1\.", lambda m: f"resnet.embedder.embedder.{words[m[1]]}.", name
    ).replace("fc.", "classifier.1.")
    name = re.sub(
        r"^layer(\d)\.(\d+)\.(conv|bn)(\d)",
        lambda m: (
            f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.layer.{int(m[4]) - 1}."
            f"{words[m[3]]}"
        ),
        name,
    )
    return re.sub(
        r"^layer(\d)\.(\d+)\.downsample\.(\d)",
        lambda m: (
            f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.shortcut."
            f"{('convolution', 'normalization')[int(m[3])]}"
        ),
        name,
    )


def test_resnet_of_hugging_face_and_of_children_in_sequence(tmp_path: Path) -> None:
    network = BACKBONES["resnet50"].build()
    weights = network.state_dict()
    save_file(
        {face_name(name): tensor for name, tensor in weights.items()},
        tmp_path / "model.safetensors",
    )
    assert_equal(load(tmp_path / "model.safetensors", "resnet50"), weights, "fc.")
    children = nn.Sequential(*list(network.children())[:-1]).state_dict()
    save_file(prefixed("backbone.", children), tmp_path / "model.safetensors")
    assert_equal(load(tmp_path / "model.safetensors", "resnet50"), weights, "fc.")


def test_real_weights_in_a_compiled_lightning_checkpoint(tmp_path: Path) -> None:
    for variation, name in (
        ("mobilenet_v2", "mobilenet_v2_backbone.pth"),
        ("efficientnet_lite0", "efficientnet_lite0_timm.pth"),
    ):
        path = PHOTOS.parent / "weights" / name
        if not path.is_file():
            pytest.skip(f"no weights at {path}")
        weights = torch.load(path, weights_only=True)
        torch.save({"state_dict": prefixed("model._orig_mod.", weights)}, tmp_path / "it.ckpt")
        assert_equal(load(tmp_path / "it.ckpt", variation), load(path, variation).state_dict())


def test_error_names_keys_of_the_file_and_its_network(tmp_path: Path) -> None:
    path = tmp_path / "it.ckpt"
    torch.save({"state_dict": prefixed("model._orig_mod.", resnet18().state_dict())}, path)
    with no_large_init(), pytest.raises(UserError) as raised:
        load(path, "resnet50")
    message = str(raised.value)
    assert f"{path} does not contain the weights of resnet50, but seems to be resnet18" in message
    assert "Its first keys of state_dict: model._orig_mod.conv1.weight, " in message
    assert re.search(r"Of 318 expected names, \d+ match; \d+ missing: ", message)
    assert message.endswith("Use weights of resnet50.")


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["timm_model.conv_stem.weight"], "an EfficientNet or MobileNet of timm"),
        (["vit.embeddings.patch_embeddings.projection.weight"], "of Hugging Face transformers"),
        (["patch_embed.proj.weight"], "a vision transformer of timm"),
        (["stages.0.0.0.weight", "head.3.weight"], "a model of eyevsai"),
        (["model.0.conv.weight"], "a YOLO of Ultralytics"),
    ],
)
def test_origin_is_named(names: list[str], title: str, tmp_path: Path) -> None:
    torch.save({name: torch.zeros(2) for name in names}, tmp_path / "it.pth")
    with pytest.raises(UserError, match=f"but seems to be .*{title}"):
        load(tmp_path / "it.pth")


def test_unknown_file_and_misspelt_name_are_told_apart(weights: State, tmp_path: Path) -> None:
    torch.save({"model": {"decoder.weight": torch.zeros(2)}}, tmp_path / "it.pth")
    with pytest.raises(
        UserError, match=r"mobilenet_v2\. Its first keys of model: decoder\.weight\."
    ):
        load(tmp_path / "it.pth")
    misspelt = {name.replace("18.1.weight", "18.1.wieght"): t for name, t in weights.items()}
    torch.save(prefixed("module.", misspelt), tmp_path / "it.pth")
    with pytest.raises(
        UserError,
        match=r"1 missing: features\.18\.1\.weight; 1 unexpected: module\.features\.18\.1\.wieght",
    ):
        load(tmp_path / "it.pth")


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_fix_for_nearly_fitting_weights_is_not_the_same_network(
    change: str, weights: State, tmp_path: Path
) -> None:
    state = dict(weights)
    if change == "missing":
        del state["features.18.1.weight"]
    else:
        state["queue.weight"] = torch.ones(2)
    torch.save(state, tmp_path / "it.pth")
    with pytest.raises(UserError, match=f"a network like it.* 1 {change}: ") as raised:
        load(tmp_path / "it.pth")
    assert str(raised.value).endswith(". Save all weights of the network, no others.")


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantized_weights_are_refused(weights: State, tmp_path: Path) -> None:
    name = "features.0.0.weight"
    for quantized in (
        weights[name].to(torch.int8),
        torch.quantize_per_tensor(weights[name], 0.1, 0, torch.qint8),
    ):
        torch.save({**weights, name: quantized}, tmp_path / "it.pth")
        with pytest.raises(UserError, match=rf"not finite floats in dense tensors: {name}\."):
            load(tmp_path / "it.pth")


def test_pickled_object_is_named(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"w": torch.ones(1)}, "callback": logging.Filter()}, tmp_path / "it.ckpt"
    )
    with pytest.raises(UserError, match=r"pickled objects besides tensors \(logging\.Filter\)"):
        read_state_dicts(tmp_path / "it.ckpt")
