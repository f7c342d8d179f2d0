"""Networks of the deep_v2 family: residual, dense and hybrid stages with attention.

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

SIXTEEN = 16  # channels of the stem are a multiple of it, to fill SIMD registers of CPUs
WIDEST = 4  # channel limit in multiples of the width: more gain little at so few positions


class DeepV2Network(nn.Module):
    """Stem that shrinks the image, stages, global average pooling, and a linear classifier.

    `stage_types` has `residual` or `dense` for each stage, separated by spaces.
    """

    def __init__(self, settings: DeepV2Settings, stage_types: str, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        stem_channels = SIXTEEN * math.ceil(settings.width / 2 / SIXTEEN)
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_channels, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(stem_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem_channels, settings.width, 3, padding=1, bias=False),
            # without weights, so that the state has the same names with and without it
            nn.MaxPool2d(2) if settings.stem_stride == 4 else nn.Identity(),
        )
        self.channels = settings.width
        self.drops = self._drops()
        builders = {"residual": self._residual, "dense": self._dense}
        types = stage_types.split()
        self.stages = nn.Sequential(
            *(
                builders[stage_type](number, last=number == len(types) - 1)
                for number, stage_type in enumerate(types)
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
        """Return the logits: N,3,S,S -> N,C."""
        logits: Tensor = self.classify(self.ready(self.stages(self.stem(images))))
        return logits

    def _drops(self) -> Iterator[float]:
        """Return the stochastic depth rate of each layer, rising linearly to the setting."""
        count = sum(self.settings.layers_of_stages)
        return iter(
            [self.settings.stochastic_depth * (number + 1) / count for number in range(count)]
        )

    def _residual(self, number: int, *, last: bool) -> Stage:
        channels, layers = self.settings.width * min(1 << number, WIDEST), list[nn.Module]()
        for index in range(self.settings.layers_of_stages[number]):
            stride = self.settings.strides[number] if index == 0 else 1
            layers.append(
                ResidualLayer(self.channels, channels, stride, self.settings, next(self.drops))
            )
            self.channels = channels
        return self._finish(layers, last)

    def _dense(self, number: int, *, last: bool) -> Stage:
        settings, layers = cast(DenseSettings, self.settings), list[nn.Module]()
        if number:
            layers.append(Transition(self.channels, settings.strides[number]))
            self.channels //= 2
        for _ in range(settings.layers_of_stages[number]):
            layers.append(
                DenseLayer(self.channels, settings.growth_rate, settings, next(self.drops))
            )
            self.channels += settings.growth_rate
        return self._finish(layers, last)

    def _finish(self, layers: list[nn.Module], last: bool) -> Stage:
        """Return the stage of `layers`.

        Only the last stage gets CBAM and self-attention: it has the fewest positions.
        """
        if last and self.settings.use_cbam:
            layers.append(Cbam(self.channels, self.settings.attention_reduction))
        if last and self.settings.attention == "self":
            layers.append(SelfAttention(self.channels, self.settings.attention_heads))
        return Stage(*layers, recomputes=self.settings.recomputes)


def _initialize(module: nn.Module) -> None:
    """Initialise a convolution by its fan-out (He et al. 2015), with channels counted per group."""
    if isinstance(module, nn.Conv2d) and not isinstance(module, ZeroInitConv):
        fan_out = (
            module.out_channels * module.kernel_size[0] * module.kernel_size[1] / module.groups
        )
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


LAYERS = {
    "resnet": "residual residual residual residual",
    "densenet": "dense dense dense dense",
    "hybrid": "residual dense residual",
}


class DeepV2Learner(NetworkLearner):
    """Learner of all variations."""

    family = "deep_v2"

    def build_network(self) -> nn.Module:
        """Return a new network of the variation, N,3,S,S float32 -> N,C logits."""
        return DeepV2Network(
            cast(DeepV2Settings, self.settings), LAYERS[self.variation], len(self.classes)
        )
