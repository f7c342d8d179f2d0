"""Attention: over channels, over places, and of each place to all others. Each begins by weighing
everything alike.

Means and maxima over places are pooled: torch's reductions are several times slower where channels
lie innermost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CBAM_KERNEL = 7


def rescale(features: Tensor, logits: Tensor) -> Tensor:
    """Features times 0 to 2: by what sigmoids say, which at first is about 1."""
    return features * (2 * torch.sigmoid(logits))


class ZeroInitConv(nn.Conv2d):
    """The convolution that says how much features weigh. It begins as zero, so that all weigh
    alike.
    """

    def reset_parameters(self) -> None:
        """Zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def _bottleneck(channels: int, reduction: int) -> nn.Module:
    inside = max(channels // reduction, 4)
    return nn.Sequential(
        nn.Conv2d(channels, inside, 1), nn.ReLU(inplace=True), ZeroInitConv(inside, channels, 1)
    )


class SqueezeExcitation(nn.Module):
    """Weighs channels by what the whole image holds (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channels = _bottleneck(channels, reduction)

    def forward(self, features: Tensor) -> Tensor:
        """N,C,H,W -> N,C,H,W."""
        return rescale(features, self.channels(functional.avg_pool2d(features, features.shape[2:])))


class Cbam(nn.Module):
    """Weighs channels, then places, by means and maxima (Woo et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channels = _bottleneck(channels, reduction)
        self.places = ZeroInitConv(2, 1, CBAM_KERNEL, padding=CBAM_KERNEL // 2, bias=False)

    def channel_layers(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        first, *_, last = self.channels.children()
        return [first], [last]

    def forward(self, features: Tensor) -> Tensor:
        """N,C,H,W -> N,C,H,W."""
        size = features.shape[2:]
        mean, largest = functional.avg_pool2d(features, size), functional.max_pool2d(features, size)
        features = rescale(features, self.channels(mean) + self.channels(largest))
        maps = torch.cat(
            [features.mean(1, keepdim=True), features.max(1, keepdim=True).values], dim=1
        )
        return rescale(features, self.places(maps))


class SelfAttention(nn.Module):
    """Adds to each place what its heads find in all places (Vaswani et al. 2017); at first
    nothing.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inside = heads * math.ceil(channels / heads)
        self.norm = nn.GroupNorm(1, channels)
        self.look = nn.Conv2d(channels, 3 * inside, 1)
        self.answer = nn.Conv2d(inside, channels, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def channel_layers(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        return [self.look], [self.answer, self.norm]

    def forward(self, features: Tensor) -> Tensor:
        """N,C,H,W -> N,C,H,W."""
        height, width = features.shape[2:]
        # N,3,heads,C/heads,HW
        looked = self.look(self.norm(features)).flatten(2).unflatten(1, (3, self.heads, -1))
        query, key, value = looked.transpose(3, 4).unbind(1)
        # Written out: torch's fused form takes five times as long on a CPU for the gradient of so
        # few places.
        shares = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(3)
        found = shares @ value
        answer: Tensor = self.answer(
            found.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))
        )
        return features + self.share * answer
