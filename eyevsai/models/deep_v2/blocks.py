"""Layers of the stages, and stages with gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from eyevsai.models.deep_v2.attention import SqueezeExcitation
from eyevsai.models.deep_v2.settings import DeepV2Settings

BOTTLENECK = 4  # channels of a dense layer's bottleneck, in multiples of the growth rate


def convolve(channels_in: int, channels: int, stride: int, *, separable: bool) -> nn.Module:
    """Return a 3 x 3 convolution, N,C,H,W -> N,C',H/stride,W/stride (rounded up).

    The stride is average pooling, before the convolution or between the two parts of a separable
    one. oneDNN 3 has no fast bfloat16 gradient of a strided convolution, and that of a strided
    depthwise convolution takes tens of times as long.

    Args:
        channels_in: input channels.
        channels: output channels.
        stride: factor by which height and width shrink.
        separable: use a depthwise and a pointwise convolution.
    """
    if not separable:
        return nn.Sequential(
            *_downsample(stride), nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        )
    depthwise = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
    return nn.Sequential(
        depthwise, *_downsample(stride), nn.Conv2d(channels_in, channels, 1, bias=False)
    )


def _downsample(stride: int) -> list[nn.Module]:
    return [nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)] if stride > 1 else []


class ResidualLayer(nn.Module):
    """Pre-activation residual layer with two 3 x 3 convolutions (He et al. 2016).

    `drop` is the rate of stochastic depth.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, settings: DeepV2Settings, drop: float
    ) -> None:
        super().__init__()
        separable = settings.separable
        self.ready = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            convolve(channels_in, channels, stride, separable=separable),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            convolve(channels, channels, 1, separable=separable),
        )
        if settings.use_se:
            self.body.append(SqueezeExcitation(channels, settings.attention_reduction))
        self.drop = StochasticDepth(drop, mode="row")
        same = stride == 1 and channels_in == channels
        self.skip = None if same else _project(channels_in, channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Return the output of the layer: N,C,H,W -> N,C',H/stride,W/stride (rounded up)."""
        activations = self.ready(features)
        shortcut: Tensor = features if self.skip is None else self.skip(activations)
        residual: Tensor = self.drop(self.body(activations))
        return shortcut + residual

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Multiply the weights of the last convolution by `factor`.

        A factor that falls with the number of layers keeps the initial variance of deep networks
        bounded (Hanin & Rolnick 2018).
        """
        *_, last = (layer for layer in self.body[:4].modules() if isinstance(layer, nn.Conv2d))
        last.weight *= factor


def _project(channels_in: int, channels: int, stride: int) -> nn.Module:
    """Return a shortcut to another shape: average pooling, then 1 x 1 convolution (ResNet-D).

    See He et al. 2019. A stride in the convolution is not an option either: in the backward pass of
    a strided 1 x 1 convolution with few channels, oneDNN 3 writes past its memory.
    """
    return nn.Sequential(*_downsample(stride), nn.Conv2d(channels_in, channels, 1, bias=False))


class DenseLayer(nn.Module):
    """Bottleneck layer that appends `growth_rate` channels to its input (Huang et al. 2017).

    `drop` is the rate of stochastic depth.
    """

    def __init__(
        self, channels: int, growth_rate: int, settings: DeepV2Settings, drop: float
    ) -> None:
        super().__init__()
        hidden = BOTTLENECK * growth_rate
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            convolve(hidden, growth_rate, 1, separable=settings.separable),
        )
        if settings.use_se:
            self.body.append(SqueezeExcitation(growth_rate, settings.attention_reduction))
        self.drop = StochasticDepth(drop, mode="row")

    def forward(self, features: Tensor) -> Tensor:
        """Return input and new channels: N,C,H,W -> N,C+growth_rate,H,W."""
        return torch.cat([features, self.drop(self.body(features))], dim=1)


class Transition(nn.Sequential):
    """Transition to a dense stage: half the channels, and the resolution divided by `stride`."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels // 2, 1, bias=False),
            nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
        )


class Stage(nn.Sequential):
    """Sequence of layers at one resolution.

    With `recomputes`, only the input is stored for the backward pass, which recomputes the layers
    (gradient checkpointing, Chen et al. 2016).
    """

    def __init__(self, *layers: nn.Module, recomputes: bool) -> None:
        super().__init__(*layers)
        self.recomputes = recomputes

    def forward(self, features: Tensor) -> Tensor:
        """Return the output of the layers for N,C,H,W features."""
        if not (self.recomputes and self.training and torch.is_grad_enabled()):
            return self._apply_layers(features)
        outputs: Tensor = checkpoint(
            self._apply_layers, features, use_reentrant=False, context_fn=self._contexts
        )
        return outputs

    def _apply_layers(self, features: Tensor) -> Tensor:
        for layer in self:
            features = layer(features)
        return features

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the context managers of the forward pass and of the recomputation."""
        return nullcontext(), self._frozen_statistics()

    @contextmanager
    def _frozen_statistics(self) -> Iterator[None]:
        """Keep the running statistics of batch normalisation, already updated for these images."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count
