"""What of a network is trained in which epoch, and at which learning rate."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, nn

from eyevsai.core.cancellation import CancellationToken
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.training.lr_schedule import LRSchedule
from eyevsai.training.settings import NetworkSettings, UnfreezingSettings


class TrainingStrategy:
    """The whole network, on images, from the first epoch to the last."""

    def __init__(self, network: nn.Module, settings: NetworkSettings | UnfreezingSettings) -> None:
        self.network = network
        self.num_epochs = settings.epochs
        self.lr_groups: list[nn.Module] = [network]  # those that have a learning rate of their own
        self.schedule = LRSchedule(settings, settings.lr, settings.epochs)

    def begin_epoch(self, epoch: int) -> dict[str, float]:  # noqa: ARG002
        """Puts the network into the state in which an epoch trains it; returns what its row says of
        that.
        """
        self.network.train()
        return {}

    def lrs_at(self, epoch: float) -> list[float]:
        """The learning rate of each part `epoch` epochs after the start."""
        return [self.schedule.lr_at(epoch)]

    def end_epoch(self, epoch: int, valid_loss: float) -> None:  # noqa: ARG002
        """Tells the schedule how an epoch ended."""
        self.schedule.end_epoch(valid_loss)

    def epochs_without_improvement(self, epoch: int, best_epoch: int) -> int:
        """For how many of the `epoch` epochs so far nothing became better that could have."""
        return epoch - best_epoch

    def prepare(
        self,
        epoch: int,
        splits: tuple[Split, Split],
        preprocessing: Preprocessing,
        stop: CancellationToken,
    ) -> None:
        """Computes what the epochs from `epoch` on need of train and valid, the network being where
        it computes.
        """
        del epoch, splits, preprocessing, stop  # images are read as they are needed

    def features(self, epoch: int, indices: Tensor, generator: torch.Generator) -> Tensor | None:  # noqa: ARG002
        """What the trained part of an epoch is given of train images, N,D float32; None: the images
        themselves.
        """
        return None

    def valid_logits(self, epoch: int, network: nn.Module) -> Tensor | None:  # noqa: ARG002
        """N,C float32 logits of the valid split by `network`, where they can be had without its
        images.
        """
        return None

    def trained_module(self, epoch: int) -> nn.Module:  # noqa: ARG002
        """The part that takes the inputs of an epoch."""
        return self.network

    def unchanged(self, epoch: int) -> Set[str]:  # noqa: ARG002
        """Names in the network's state that up to an epoch are as they were before the first."""
        return frozenset()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.schedule.load_state_dict(state)
