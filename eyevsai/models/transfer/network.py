"""Networks of the transfer family: pretrained backbones in five stages, with a new head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from eyevsai.models.network_learner import NetworkLearner
from eyevsai.models.transfer.backbones import BACKBONES
from eyevsai.models.transfer.pretrained import declare_preprocessing, find_weights
from eyevsai.models.transfer.settings import TransferSettings
from eyevsai.models.transfer.weights_file import load_weights
from eyevsai.training.gradual_unfreezing import GradualUnfreezing
from eyevsai.training.staged_network import StagedNetwork
from eyevsai.training.strategy import TrainingStrategy


def build_head(num_features: int, settings: TransferSettings, num_classes: int) -> nn.Module:
    """Return a new head from N,D features to N,C logits, with `dense_units` hidden layers."""
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
    """Learner of all variations."""

    family = "transfer"
    network: StagedNetwork

    def build_network(self) -> nn.Module:
        """Return backbone and head, N,3,S,S float32 -> N,C logits, without pretrained weights."""
        backbone = BACKBONES[self.variation]
        network = backbone.build()
        head = build_head(backbone.num_features, self._settings, len(self.classes))
        return StagedNetwork(backbone.split(network), head)

    def prepare(self, train_labels: Sequence[str]) -> None:
        """Check the settings, load the pretrained weights, and set their preprocessing.

        Raises:
            UserError: the batch size, device or precision cannot be used, or the weights or the
                JSON file next to them cannot be found, downloaded or read.
        """
        super().prepare(train_labels)
        backbone = BACKBONES[self.variation]
        path = find_weights(backbone, self._settings.weights)
        self.preprocessing = declare_preprocessing(backbone, self._settings, path)
        if path is not None:
            network = backbone.build()
            load_weights(backbone, network, path)
            for stage, pretrained in zip(self.network.stages, backbone.split(network), strict=True):
                stage.load_state_dict(pretrained.state_dict())

    def strategy(self) -> TrainingStrategy:
        """Return gradual unfreezing; for a pruned network, training of all layers."""
        return (
            TrainingStrategy(self.network, self._settings)
            if self.pruned
            else GradualUnfreezing(self.network, self._settings)
        )

    @property
    def _settings(self) -> TransferSettings:
        return cast(TransferSettings, self.settings)
