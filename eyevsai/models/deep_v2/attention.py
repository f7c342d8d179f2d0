"""Channel attention, spatial attention and self-attention, initialised to the identity.

Spatial means and maxima use pooling functions: torch's reductions are several times slower in the
channels-last memory format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CBAM_KERNEL = 7


def rescale(features: Tensor, logits: Tensor) -> Tensor:
    """Return `features * 2 * sigmoid(logits)`: a factor of 0 to 2, which is 1 for zero logits."""
    return features * (2 * torch.sigmoid(logits))


class ZeroInitConv(nn.Conv2d):
    """Convolution for attention logits. Starts at zero, so that all features weigh the same."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def _bottleneck(channels: int, reduction: int) -> nn.Module:
    hidden = max(channels // reduction, 4)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), ZeroInitConv(hidden, channels, 1)
    )


class SqueezeExcitation(nn.Module):
    """Channel attention from the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channels = _bottleneck(channels, reduction)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with weighted channels: N,C,H,W -> N,C,H,W."""
        return rescale(features, self.channels(functional.avg_pool2d(features, features.shape[2:])))


class Cbam(nn.Module):
    """Channel, then spatial attention, from means and maxima (Woo et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channels = _bottleneck(channels, reduction)
        self.places = ZeroInitConv(2, 1, CBAM_KERNEL, padding=CBAM_KERNEL // 2, bias=False)

    def channel_layers(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        first, *_, last = self.channels.children()
        return [first], [last]

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with weighted channels and positions: N,C,H,W -> N,C,H,W."""
        size = features.shape[2:]
        mean, maximum = functional.avg_pool2d(features, size), functional.max_pool2d(features, size)
        features = rescale(features, self.channels(mean) + self.channels(maximum))
        maps = torch.cat(
            [features.mean(1, keepdim=True), features.max(1, keepdim=True).values], dim=1
        )
        return rescale(features, self.places(maps))


class SelfAttention(nn.Module):
    """Residual multi-head self-attention over positions (Vaswani et al. 2017).

    The factor of the residual starts at zero. Channels are padded to a multiple of `heads` inside.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        hidden = heads * math.ceil(channels / heads)
        self.norm = nn.GroupNorm(1, channels)
        self.look = nn.Conv2d(channels, 3 * hidden, 1)
        self.answer = nn.Conv2d(hidden, channels, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def channel_layers(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        return [self.look], [self.answer, self.norm]

    def forward(self, features: Tensor) -> Tensor:
        """Return the features plus the attention output: N,C,H,W -> N,C,H,W."""
        height, width = features.shape[2:]
        # shape N,3,heads,C/heads,HW
        projections = self.look(self.norm(features)).flatten(2).unflatten(1, (3, self.heads, -1))
        query, key, value = projections.transpose(3, 4).unbind(1)
        # Not scaled_dot_product_attention: its backward pass takes five times as long on a CPU for
        # so few positions.
        weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(3)
        values = weights @ value
        output: Tensor = self.answer(
            values.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))
        )
        return features + self.share * output
