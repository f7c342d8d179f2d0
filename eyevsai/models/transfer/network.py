"""transfer: bases that learned from ImageNet, each in five stages, under a head of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from eyevsai.models.network_learner import NetworkLearner
from eyevsai.models.transfer.backbones import BACKBONES
from eyevsai.models.transfer.pretrained import declare_preprocessing, find_weights, load_weights
from eyevsai.models.transfer.settings import TransferSettings
from eyevsai.training.gradual_unfreezing import GradualUnfreezing
from eyevsai.training.staged_network import StagedNetwork
from eyevsai.training.strategy import TrainingStrategy


def build_head(num_features: int, settings: TransferSettings, num_classes: int) -> nn.Module:
    """N,D features -> N,C logits."""
    layers: list[nn.Module] = []
    for units in settings.units_of_layers:
        layers += [
            nn.Linear(num_features, units, bias=False),
            nn.BatchNorm1d(units),
            nn.ReLU(inplace=True),
            nn.Dropout(settings.dropout),
        ]
        num_features = units
    if not layers:
        layers.append(nn.Dropout(settings.dropout))
    return nn.Sequential(*layers, nn.Linear(num_features, num_classes))


class TransferLearner(NetworkLearner):
    """The learner of all variations."""

    family = "transfer"
    network: StagedNetwork

    def build_network(self) -> nn.Module:
        """Return backbone and head, N,3,S,S float32 -> N,C logits, without pretrained weights."""
        base = BACKBONES[self.variation]
        network = base.build()
        head = build_head(base.num_features, self._settings, len(self.classes))
        return StagedNetwork(base.split(network), head)

    def prepare(self, train_labels: Sequence[str]) -> None:
        """Check the settings, load the pretrained weights, and set the preprocessing for them."""
        super().prepare(train_labels)
        base = BACKBONES[self.variation]
        path = find_weights(base, self._settings.weights)
        self.preprocessing = declare_preprocessing(base, self._settings, path)
        if path is not None:
            network = base.build()
            load_weights(base, network, path)
            for stage, loaded in zip(self.network.stages, base.split(network), strict=True):
                stage.load_state_dict(loaded.state_dict())

    def strategy(self) -> TrainingStrategy:
        """Return gradual unfreezing, or training of the whole network if it is pruned."""
        return (
            TrainingStrategy(self.network, self._settings)
            if self.pruned
            else GradualUnfreezing(self.network, self._settings)
        )

    @property
    def _settings(self) -> TransferSettings:
        return cast(TransferSettings, self.settings)
