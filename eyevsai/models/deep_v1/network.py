"""Networks of the deep_v1 family: plain convolutions, with or without skip connections.

LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition; batch normalisation
(Ioffe & Szegedy 2015); global average pooling (Lin et al. 2014); skip connections (He et al. 2016).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.network_learner import NetworkLearner

NUM_BLOCKS = 4


class Block(nn.Module):
    """3 x 3 convolutions with batch normalisation and ReLU, and 2 x 2 max-pooling.

    With `residual`, a 1 x 1 convolution of the input is added before the last ReLU.

    Args:
        channels_in: channels of the input.
        channels: channels of the output.
        convolutions: number of convolutions.
        residual: add a convolution of the input.
        pooling: `first` pools the output of the first convolution, as Jordan 2024 does (94% on
            CIFAR-10 in 3.29 Seconds on a Single GPU), `early` that of the last convolution, and
            `late` that of the last ReLU. Layers after the pooling see a quarter of the positions.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        convolutions: int,
        *,
        residual: bool,
        pooling: str,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(convolutions):
            width = channels_in if index == 0 else channels
            layers += [
                nn.Conv2d(width, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers[:-1])  # without the last ReLU
        self.skip = None
        if residual:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )
        self.activation, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the block: N,C,H,W -> N,C',H//2,W//2."""
        features = self._normalized(self.body, images)
        if self.skip is not None:
            features = features + self._normalized(self.skip, images)
        output: Tensor = self.activation(features)
        return self.pool(output) if self.pooling == "late" else output

    def _normalized(self, layers: nn.Sequential, images: Tensor) -> Tensor:
        """Return the output of `layers`: a convolution first, a batch normalisation last."""
        place = {"first": 1, "early": len(layers) - 1, "late": len(layers)}[self.pooling]
        features: Tensor = layers[:place](images)
        if self.pooling != "late":
            features = layers[place:](self.pool(features))
        return features


class DeepV1Network(nn.Sequential):
    """Four blocks, global average pooling, and a classifier with at most one hidden layer."""

    def __init__(self, settings: DeepV1Settings, num_classes: int, *, residual: bool) -> None:
        widths = [3] + [settings.width << index for index in range(NUM_BLOCKS)]
        blocks = [
            Block(
                before,
                after,
                settings.convolutions,
                residual=residual,
                pooling=settings.pooling,
            )
            for before, after in zip(widths, widths[1:], strict=False)
        ]
        super().__init__(
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *_head(settings, widths[-1], num_classes),
        )
        self.apply(_initialize)


def _head(settings: DeepV1Settings, features: int, num_classes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    if settings.head_units:
        layers += [nn.Linear(features, settings.head_units), nn.ReLU(inplace=True)]
        features = settings.head_units
    return [*layers, nn.Dropout(settings.dropout), nn.Linear(features, num_classes)]


def _initialize(module: nn.Module) -> None:
    """Initialise a convolution that a ReLU follows (He et al. 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class DeepV1Learner(NetworkLearner):
    """Learner of both variations."""

    family = "deep_v1"

    def build_network(self) -> nn.Module:
        settings = cast(DeepV1Settings, self.settings)
        return DeepV1Network(settings, len(self.classes), residual=self.variation == "residual")
