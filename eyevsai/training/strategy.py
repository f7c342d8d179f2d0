"""Training strategy: the trained modules and the learning rates of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, nn

from eyevsai.core.cancellation import CancellationToken
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.training.lr_schedule import LRSchedule
from eyevsai.training.process_group import SingleProcess
from eyevsai.training.settings import NetworkSettings, UnfreezingSettings
from eyevsai.training.whitening import whiten


class TrainingStrategy:
    """Training of the whole network on images in all epochs; base class of other strategies."""

    whitening = False  # whether the first convolution gets whitening filters

    def __init__(self, network: nn.Module, settings: NetworkSettings | UnfreezingSettings) -> None:
        self.network = network
        self.num_epochs = settings.epochs
        self.lr_groups: list[nn.Module] = [network]  # modules with separate learning rates
        self.schedule = LRSchedule(settings, settings.lr, settings.epochs)
        self.image_sizes = settings.image_sizes
        if isinstance(settings, NetworkSettings):
            self.whitening = settings.whitening

    def initialize(
        self, train: Split, preprocessing: Preprocessing, seed: int, group: SingleProcess
    ) -> None:
        """Set initial weights that depend on the train images. Call before `begin_epoch`.

        Args:
            train: train split.
            preprocessing: preprocessing of the network.
            seed: seed of the training.
            group: process group, whose ranks get the weights of rank 0.
        """
        if self.whitening:
            whiten(self.network, train, preprocessing, seed, group.broadcast_values)

    def begin_epoch(self, epoch: int) -> dict[str, float]:  # noqa: ARG002
        """Put the network into train mode, and set its trainable weights for the epoch.

        Returns:
            Values to add to the epoch metrics.
        """
        self.network.train()
        return {}

    def lrs_at(self, epoch: float) -> list[float]:
        """Return the learning rate of each of `lr_groups`, `epoch` epochs after the start."""
        return [self.schedule.lr_at(epoch)]

    def share_at(self, epoch: float) -> float:
        """Return the passed share of the training on images, `epoch` epochs after the start."""
        return epoch / self.num_epochs

    def image_size_at(self, epoch: float) -> int:
        """Return the side of the training images in pixels, `epoch` epochs after the start."""
        return self.image_sizes.size_at(self.share_at(epoch))

    def cost_at(self, epoch: float) -> float:
        """Return the expected time of a step relative to one with images of the full size."""
        return self.image_sizes.cost_at(self.share_at(epoch))

    def end_epoch(self, epoch: int, valid_loss: float) -> None:
        """Record the validation loss of an epoch in the LR schedule."""
        if epoch > self.last_change():
            self.schedule.end_epoch(valid_loss)

    def last_change(self) -> int:
        """Return the last epoch that begins with images below the full size, or 0.

        Until then, the network is less accurate for full images than for its training images, so
        that neither early stopping nor a plateau schedule counts these epochs.
        """
        if self.image_sizes.initial_scale == 1:
            return 0
        full = self.image_sizes.image_size
        smaller = (
            each for each in range(self.num_epochs, 0, -1) if self.image_size_at(each - 1) < full
        )
        return next(smaller, 0)

    def prepare(
        self,
        epoch: int,
        splits: tuple[Split, Split],
        preprocessing: Preprocessing,
        stop: CancellationToken,
    ) -> None:
        """Compute the data that the epochs need in advance. Call with the network on its device.

        Args:
            epoch: first epoch to train.
            splits: train and valid.
            preprocessing: preprocessing of the network.
            stop: cancellation token, checked between batches.
        """
        del epoch, splits, preprocessing, stop  # batches are loaded from images during training

    def solve(
        self,
        epoch: int,
        stop: CancellationToken,
        is_late: Callable[[], bool],
        group: SingleProcess,
    ) -> dict[str, float] | None:
        """Set the weights of an epoch at once; return None if the epoch is trained by steps.

        Args:
            epoch: epoch of the plan, from 1.
            stop: cancellation token, checked from time to time.
            is_late: returns True if the time budget is over; only that of rank 0 is used.
            group: process group, whose ranks try the same solutions as rank 0.

        Returns:
            train/loss, train/accuracy, and values to add to the epoch metrics.

        Raises:
            JobError: there is no solution.
            BaseException: the cancellation that `stop` requests.
        """
        del epoch, stop, is_late, group
        return None

    def features(self, epoch: int, indices: Tensor, generator: torch.Generator) -> Tensor | None:  # noqa: ARG002
        """Return precomputed inputs of an epoch, N,D float32; None if it trains on images.

        Args:
            epoch: epoch, from 1.
            indices: indices of the images in the train split, N int64.
            generator: source of random choices.
        """
        return None

    def valid_logits(self, epoch: int, network: nn.Module) -> Tensor | None:  # noqa: ARG002
        """Return the N,C float32 logits of the valid split; None if they need its images."""
        return None

    def trained_module(self, epoch: int) -> nn.Module:  # noqa: ARG002
        """Return the module that takes the inputs of an epoch."""
        return self.network

    def is_fine_tuning(self, epoch: int) -> bool:  # noqa: ARG002
        """Return True if an epoch trains a pretrained backbone."""
        return False

    @property
    def averaged_from(self) -> Set[str]:
        """Names in the network's state that are averaged with their values before fine-tuning.

        The rest is averaged with its values at the start of the fine-tuning; if the set is empty,
        nothing is averaged.
        """
        return frozenset()

    def unchanged(self, epoch: int) -> Set[str]:  # noqa: ARG002
        """Return the names in the network's state that no epoch up to `epoch` changes."""
        return frozenset()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.schedule.load_state_dict(state)
