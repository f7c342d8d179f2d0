"""deep_v2: residual and dense networks with attention, and a hybrid of both.

He et al. 2016, Identity Mappings in Deep Residual Networks; Huang et al. 2017, Densely Connected
Convolutional Networks; Vaswani et al. 2017, Attention Is All You Need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from eyevsai.models.deep_v2.attention import Cbam, SelfAttention, ZeroInitConv
from eyevsai.models.deep_v2.blocks import DenseLayer, ResidualLayer, Stage, Transition
from eyevsai.models.deep_v2.settings import DeepV2Settings, DenseSettings
from eyevsai.models.network_learner import NetworkLearner

SIXTEEN = 16  # channels that a CPU's instructions take at once
WIDEST = 4  # times the width: a CPU gains little from more channels on so few places


class DeepV2Network(nn.Module):
    """A stem down to a quarter of the resolution, stages, global average pooling, and a
    classifier.
    """

    def __init__(self, settings: DeepV2Settings, kinds: str, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        inside = SIXTEEN * math.ceil(settings.width / 2 / SIXTEEN)
        self.stem = nn.Sequential(
            nn.Conv2d(3, inside, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, settings.width, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
        )
        self.channels = settings.width
        self.drops = self._drops()
        builders = {"residual": self._residual, "dense": self._dense}
        names = kinds.split()
        self.stages = nn.Sequential(
            *(
                builders[kind](number, last=number == len(names) - 1)
                for number, kind in enumerate(names)
            )
        )
        self.ready = nn.Sequential(nn.BatchNorm2d(self.channels), nn.ReLU(inplace=True))
        self.classify = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(settings.dropout),
            nn.Linear(self.channels, num_classes),
        )
        self.apply(_initialize)
        layers = [layer for layer in self.modules() if isinstance(layer, ResidualLayer)]
        for layer in layers:
            layer.shrink(1 / math.sqrt(len(layers)))

    def forward(self, images: Tensor) -> Tensor:
        """N,3,S,S -> N,C logits."""
        logits: Tensor = self.classify(self.ready(self.stages(self.stem(images))))
        return logits

    def _drops(self) -> Iterator[float]:
        """The rate of stochastic depth of each layer, rising from the first to the last."""
        count = sum(self.settings.layers_of_stages)
        return iter(
            [self.settings.stochastic_depth * (number + 1) / count for number in range(count)]
        )

    def _residual(self, number: int, *, last: bool) -> Stage:
        channels, layers = self.settings.width * min(1 << number, WIDEST), list[nn.Module]()
        for place in range(self.settings.layers_of_stages[number]):
            stride = 2 if place == 0 and number else 1
            layers.append(
                ResidualLayer(self.channels, channels, stride, self.settings, next(self.drops))
            )
            self.channels = channels
        return self._finish(layers, last)

    def _dense(self, number: int, *, last: bool) -> Stage:
        settings, layers = cast(DenseSettings, self.settings), list[nn.Module]()
        if number:
            layers.append(Transition(self.channels))
            self.channels //= 2
        for _ in range(settings.layers_of_stages[number]):
            layers.append(
                DenseLayer(self.channels, settings.growth_rate, settings, next(self.drops))
            )
            self.channels += settings.growth_rate
        return self._finish(layers, last)

    def _finish(self, layers: list[nn.Module], last: bool) -> Stage:
        """The stage of `layers`; the last has attention over places, where there are few of
        them.
        """
        if last and self.settings.use_cbam:
            layers.append(Cbam(self.channels, self.settings.attention_reduction))
        if last and self.settings.attention == "self":
            layers.append(SelfAttention(self.channels, self.settings.attention_heads))
        return Stage(*layers, recomputes=self.settings.recomputes)


def _initialize(module: nn.Module) -> None:
    """He et al. 2015, by what a place of the input reaches: of a depthwise convolution, one channel
    alone.
    """
    if isinstance(module, nn.Conv2d) and not isinstance(module, ZeroInitConv):
        reached = (
            module.out_channels * module.kernel_size[0] * module.kernel_size[1] / module.groups
        )
        nn.init.normal_(module.weight, std=math.sqrt(2 / reached))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


LAYERS = {
    "resnet": "residual residual residual residual",
    "densenet": "dense dense dense dense",
    "hybrid": "residual dense residual",
}


class DeepV2Learner(NetworkLearner):
    """The learner of all variations."""

    family = "deep_v2"

    def build_network(self) -> nn.Module:
        """Build the network of the variation from the seed."""
        return DeepV2Network(
            cast(DeepV2Settings, self.settings), LAYERS[self.variation], len(self.classes)
        )
