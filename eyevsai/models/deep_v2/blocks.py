"""The layers of which stages are made, and stages that are computed again for their gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from eyevsai.models.deep_v2.attention import SqueezeExcitation
from eyevsai.models.deep_v2.settings import DeepV2Settings

BOTTLENECK = 4  # width of a dense layer's bottleneck, in growth rates


def convolve(channels_in: int, channels: int, stride: int, *, separable: bool) -> nn.Module:
    """A 3 x 3 convolution, or one for each channel followed by one over channels.

    Places are averaged, not skipped, before the one and between the two: of a strided convolution
    oneDNN 3 has no fast gradient in bfloat16, and of one for single channels it takes tens of times
    as long.
    """
    if not separable:
        return nn.Sequential(
            *_shrink_places(stride), nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        )
    each = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
    return nn.Sequential(
        each, *_shrink_places(stride), nn.Conv2d(channels_in, channels, 1, bias=False)
    )


def _shrink_places(stride: int) -> list[nn.Module]:
    return [nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)] if stride > 1 else []


class ResidualLayer(nn.Module):
    """Two convolutions, each after normalisation and ReLU, beside an identity (He et al. 2016)."""

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
        """N,C,H,W -> N,C',H/stride,W/stride."""
        ready = self.ready(features)
        kept: Tensor = features if self.skip is None else self.skip(ready)
        changed: Tensor = self.drop(self.body(ready))
        return kept + changed

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Makes what is added smaller at first, so that many layers add no more than few (Hanin &
        Rolnick 2018).
        """
        *_, last = (layer for layer in self.body[:4].modules() if isinstance(layer, nn.Conv2d))
        last.weight *= factor


def _project(channels_in: int, channels: int, stride: int) -> nn.Module:
    """A short cut to another size: places are averaged, not skipped (He et al. 2019, ResNet-D).

    Besides, oneDNN 3 writes past its memory in the backward pass of a strided 1 x 1 convolution of
    few channels.
    """
    return nn.Sequential(*_shrink_places(stride), nn.Conv2d(channels_in, channels, 1, bias=False))


class DenseLayer(nn.Module):
    """Adds `growth_rate` channels to all that came before, through a bottleneck (Huang et al.
    2017).
    """

    def __init__(
        self, channels: int, growth_rate: int, settings: DeepV2Settings, drop: float
    ) -> None:
        super().__init__()
        inside = BOTTLENECK * growth_rate
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            convolve(inside, growth_rate, 1, separable=settings.separable),
        )
        if settings.use_se:
            self.body.append(SqueezeExcitation(growth_rate, settings.attention_reduction))
        self.drop = StochasticDepth(drop, mode="row")

    def forward(self, features: Tensor) -> Tensor:
        """N,C,H,W -> N,C+growth_rate,H,W."""
        return torch.cat([features, self.drop(self.body(features))], dim=1)


class Transition(nn.Sequential):
    """Before a dense stage: half the channels at half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels // 2, 1, bias=False),
            nn.AvgPool2d(2),
        )


class Stage(nn.Sequential):
    """Layers at one resolution; with `recomputes` only what goes in is kept for the gradient (Chen
    et al. 2016).
    """

    def __init__(self, *layers: nn.Module, recomputes: bool) -> None:
        super().__init__(*layers)
        self.recomputes = recomputes

    def forward(self, features: Tensor) -> Tensor:
        """What the layers make of N,C,H,W."""
        if not (self.recomputes and self.training and torch.is_grad_enabled()):
            return self._pass_on(features)
        computed: Tensor = checkpoint(
            self._pass_on, features, use_reentrant=False, context_fn=self._contexts
        )
        return computed

    def _pass_on(self, features: Tensor) -> Tensor:
        for layer in self:
            features = layer(features)
        return features

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._statistics_at_rest()

    @contextmanager
    def _statistics_at_rest(self) -> Iterator[None]:
        """Inside, batch normalisation learns nothing: it has seen these images already."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count
