"""Pretrained backbones: network, its five stages, and the preprocessing of its ImageNet weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from eyevsai.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD

HALF = (0.5, 0.5, 0.5)
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
FACE_STEM = re.compile(r"embedder\.embedder\.(convolution|normalization)\.")
FACE_BLOCK = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:shortcut|layer\.(\d+))\."
    r"(convolution|normalization)\."
)
CHILD = re.compile(r"(\d)\.")
# position of the layers with weights among the children of a ResNet
RESNET_CHILDREN = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}
LITE_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # blocks per group of EfficientNet-Lite0
# names of the packaged weights file, and those of timm: outside blocks, in block 0, in other blocks
LITE_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
LITE_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
LITE_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _unchanged(name: str) -> str:
    return name


def _rename_densenet(name: str) -> str:
    """Remove the extra dot of `norm.1`, `relu.1` and `conv.1` in torchvision's own files."""
    return OLD_DENSENET.sub(r"\1\2", name)


def _rename_resnet(name: str) -> str:
    """Return torchvision's name of a weight of Hugging Face transformers, or of `nn.Sequential`.

    The latter is made of the layers of the network: `4.0.conv1.weight` is in its `layer1`. Names of
    another form are returned unchanged.
    """
    if match := FACE_STEM.match(name):
        layer = {"convolution": "conv1", "normalization": "bn1"}[match[1]]
    elif match := FACE_BLOCK.match(name):
        stage, block, index, kind = match.groups()
        is_convolution = kind == "convolution"
        shortcut = f"downsample.{0 if is_convolution else 1}"
        number = f"{'conv' if is_convolution else 'bn'}{int(index or 0) + 1}"
        layer = f"layer{int(stage) + 1}.{block}.{shortcut if index is None else number}"
    elif (match := CHILD.match(name)) and match[1] in RESNET_CHILDREN:
        layer = RESNET_CHILDREN[match[1]]
    else:
        return name
    return f"{layer}.{name[match.end() :]}"


def _rename_lite(name: str) -> str:
    """Return timm's name of a weight in the packaged file, such as `_blocks.3._bn0.bias`.

    That file numbers blocks consecutively, timm within groups: `blocks.2.0.bn1.bias`. Names of
    another form are returned unchanged.
    """
    parts = name.split(".")
    if parts[0] in LITE_OUTSIDE:
        return ".".join([LITE_OUTSIDE[parts[0]], *parts[1:]])
    if parts[0] != "_blocks" or len(parts) < 4 or not parts[1].isdecimal():
        return name
    block, group = int(parts[1]), 0
    inside = LITE_INSIDE if block else LITE_FIRST
    while group < len(LITE_BLOCKS) - 1 and block >= LITE_BLOCKS[group]:
        block, group = block - LITE_BLOCKS[group], group + 1
    return ".".join(["blocks", str(group), str(block), inside.get(parts[2], parts[2]), *parts[3:]])


@dataclass(frozen=True)
class Backbone:
    """Published network, and how to split it into five stages without its classifier.

    `library` is torchvision or timm, and `name` the network there. `classifier` is the prefix of
    the names of its classifier's weights, which are ignored. `num_features` is the number of
    channels of the last stage. `split` returns the stages of a network. `rename` maps names in
    weights files to names in the network. `mean`, `std` and `interpolation` are the preprocessing
    of its ImageNet weights.
    """

    library: str
    name: str
    classifier: str
    num_features: int
    split: Callable[[Any], list[nn.Module]]
    rename: Callable[[str], str] = _unchanged
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        if self.library == "timm":
            import timm  # the import takes a second

            network: nn.Module = timm.create_model(self.name, pretrained=False)
            return network
        from torchvision.models import get_model

        torchvision_network: nn.Module = get_model(self.name, weights=None)
        return torchvision_network


def _stages_of_resnet(network: Any) -> list[nn.Module]:
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return [stem, network.layer1, network.layer2, network.layer3, network.layer4]


def _stages_of_densenet(network: Any) -> list[nn.Module]:
    layers = network.features
    stem = nn.Sequential(layers.conv0, layers.norm0, layers.relu0, layers.pool0)
    blocks = [
        nn.Sequential(
            getattr(layers, f"denseblock{number}"), getattr(layers, f"transition{number}")
        )
        for number in (1, 2, 3)
    ]
    return [stem, *blocks, nn.Sequential(layers.denseblock4, layers.norm5, nn.ReLU(inplace=True))]


def _stages_of_features(*ends: int) -> Callable[[Any], list[nn.Module]]:
    """Return a function that splits `network.features` before each index of `ends`."""

    def split(network: Any) -> list[nn.Module]:
        """Return the stages of a network."""
        return [
            network.features[start:end]
            for start, end in zip((0, *ends), (*ends, None), strict=True)
        ]

    return split


def _stages_of_lite(network: Any) -> list[nn.Module]:
    blocks = network.blocks
    return [
        nn.Sequential(network.conv_stem, network.bn1, blocks[0]),
        blocks[1],
        blocks[2],
        blocks[3:5],
        nn.Sequential(*blocks[5:], network.conv_head, network.bn2),
    ]


BACKBONES = {
    "mobilenet_v2": Backbone(
        "torchvision", "mobilenet_v2", "classifier.", 1280, _stages_of_features(2, 4, 7, 14)
    ),
    "efficientnet_lite0": Backbone(
        "timm",
        "tf_efficientnet_lite0",
        "classifier.",
        1280,
        _stages_of_lite,
        _rename_lite,
        HALF,
        HALF,
        "bicubic",
    ),
    "efficientnet_b0": Backbone(
        "torchvision",
        "efficientnet_b0",
        "classifier.",
        1280,
        _stages_of_features(2, 3, 4, 6),
        interpolation="bicubic",
    ),
    "efficientnet_b1": Backbone(
        "torchvision",
        "efficientnet_b1",
        "classifier.",
        1280,
        _stages_of_features(2, 3, 4, 6),
        interpolation="bicubic",
    ),
    "resnet50": Backbone("torchvision", "resnet50", "fc.", 2048, _stages_of_resnet, _rename_resnet),
    "resnet101": Backbone(
        "torchvision", "resnet101", "fc.", 2048, _stages_of_resnet, _rename_resnet
    ),
    "vgg16": Backbone(
        "torchvision", "vgg16", "classifier.", 512, _stages_of_features(5, 10, 17, 24)
    ),
    "densenet121": Backbone(
        "torchvision", "densenet121", "classifier.", 1024, _stages_of_densenet, _rename_densenet
    ),
}
