"""Gradual unfreezing (Howard & Ruder 2018): the head first, then the stages from the top down."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, nn

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.training.feature_cache import FeatureCache
from eyevsai.training.inference import average_flips, evaluating
from eyevsai.training.linear_head import solve_linear_head
from eyevsai.training.lr_schedule import LRSchedule
from eyevsai.training.process_group import SingleProcess
from eyevsai.training.settings import UnfreezingSettings
from eyevsai.training.staged_network import StagedNetwork
from eyevsai.training.strategy import TrainingStrategy


class GradualUnfreezing(TrainingStrategy):
    """Training of the head on cached backbone features, then also of the stages from the top."""

    def __init__(self, network: StagedNetwork, settings: UnfreezingSettings) -> None:
        self.network: StagedNetwork = network
        self.settings = settings
        self.num_epochs = settings.epochs
        self.lr_groups = [network.head, *reversed(network.stages)]
        self.schedules = (
            LRSchedule(settings, settings.lr, settings.frozen_epochs),
            LRSchedule(settings, settings.fine_tune_lr, settings.fine_tune_epochs),
        )
        self.image_sizes = settings.image_sizes
        self.frozen = FeatureCache(settings)
        self.backbone_digest = _digest(network.stages)

    def num_unfrozen(self, epoch: int) -> int:
        """Return the number of stages that an epoch, counted from 1, trains."""
        settings, fine_tune_epoch = self.settings, epoch - self.settings.frozen_epochs
        if fine_tune_epoch <= 0 or not settings.fine_tune_epochs:
            return 0
        if settings.unfreezing == "together":
            return settings.unfreeze_stages
        return math.ceil(
            min(fine_tune_epoch, settings.fine_tune_epochs)
            * settings.unfreeze_stages
            / settings.fine_tune_epochs
        )

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Unfreeze the stages of this epoch; frozen stages stay in eval mode (batch norm, too).

        Returns:
            The number of unfrozen stages and of trainable parameters, for the epoch metrics.
        """
        self.network.train()
        if self.num_unfrozen(epoch):
            self.frozen.release()
        frozen = len(self.network.stages) - self.num_unfrozen(epoch)
        for number, stage in enumerate(self.network.stages):
            stage.requires_grad_(number >= frozen).train(number >= frozen)
        trainable = sum(
            weight.numel() for weight in self.network.parameters() if weight.requires_grad
        )
        return {"unfrozen_stages": self.num_unfrozen(epoch), "trainable_parameters": trainable}

    def lrs_at(self, epoch: float) -> list[float]:
        """Return the LRs of head and stages from the top, decayed by `layer_decay` per stage."""
        settings = self.settings
        if epoch <= settings.frozen_epochs and settings.frozen_epochs:
            return [self.schedules[0].lr_at(epoch)] + [0.0] * len(self.network.stages)
        rate = self.schedules[1].lr_at(epoch - settings.frozen_epochs)
        return [rate] + [
            rate * settings.layer_decay**depth for depth in range(len(self.network.stages))
        ]

    def share_at(self, epoch: float) -> float:
        settings = self.settings
        return max(0.0, epoch - settings.frozen_epochs) / max(settings.fine_tune_epochs, 1)

    def end_epoch(self, epoch: int, valid_loss: float) -> None:
        if epoch <= self.settings.frozen_epochs:
            self.schedules[0].end_epoch(valid_loss)
        elif epoch > super().last_change():
            self.schedules[1].end_epoch(valid_loss)

    def last_change(self) -> int:
        """Return the last epoch with smaller images or fewer unfrozen stages than later ones."""
        if not self.settings.fine_tune_epochs:
            return 0  # cached features have the full size
        stages = self.num_unfrozen(self.num_epochs)
        fewer = (
            each for each in range(self.num_epochs, 0, -1) if self.num_unfrozen(each) != stages
        )
        return max(super().last_change(), next(fewer, 0))

    def prepare(
        self,
        epoch: int,
        splits: tuple[Split, Split],
        preprocessing: Preprocessing,
        stop: CancellationToken,
    ) -> None:
        """Compute the features of the frozen backbone if `epoch` trains the head alone."""
        if not self.num_unfrozen(epoch):
            self.frozen.compute(self.network, self.backbone_digest, splits, preprocessing, stop)

    def solve(
        self,
        epoch: int,
        stop: CancellationToken,
        is_late: Callable[[], bool],
        group: SingleProcess,
    ) -> dict[str, float] | None:
        """Solve a linear head on the cached features; see `solve_linear_head`."""
        if self.num_unfrozen(epoch) or not self.settings.solves_head:
            return None
        solution = solve_linear_head(
            (self.frozen.train, self.frozen.train_labels),
            (self.frozen.valid, self.frozen.valid_labels),
            stop,
            is_balanced=self.settings.class_weights,
            is_late=is_late,
            group=group,
        )
        *_, head = self.network.head.children()
        assert isinstance(head, nn.Linear)  # the last layer of each head
        with torch.no_grad():
            head.weight.copy_(solution.weight)
            head.bias.copy_(solution.bias)
        return {
            "train/loss": solution.train_loss,
            "train/accuracy": solution.train_accuracy,
            "head_strength": solution.strength,
        }

    def features(self, epoch: int, indices: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return N,D float32 features, a random view per image; None once a stage is unfrozen."""
        if self.num_unfrozen(epoch):
            return None
        return self.frozen.load(indices, generator)

    def valid_logits(self, epoch: int, network: nn.Module) -> Tensor | None:
        """Return the N,C logits of the cached features; None once a stage is unfrozen."""
        if self.num_unfrozen(epoch):
            return None
        head: nn.Module = network.head  # type: ignore[assignment]
        device = next(head.parameters()).device
        with torch.inference_mode(), evaluating(head):
            outputs = [head(view.to(device)).float().cpu() for view in self.frozen.valid]
        return outputs[0] if len(outputs) == 1 else average_flips(*outputs)

    def trained_module(self, epoch: int) -> nn.Module:
        return self.network if self.num_unfrozen(epoch) else self.network.head

    def is_fine_tuning(self, epoch: int) -> bool:
        return self.num_unfrozen(epoch) > 0

    @property
    def averaged_from(self) -> Set[str]:
        """Names of the backbone, if the head is trained before it is fine-tuned."""
        return self.unchanged(1) if self.settings.averages_weights else frozenset()

    def unchanged(self, epoch: int) -> Set[str]:
        """Return the names in the network's state that belong to stages frozen in `epoch`."""
        prefixes = tuple(
            f"stages.{number}."
            for number in range(len(self.network.stages) - self.num_unfrozen(epoch))
        )
        return {name for name in self.network.state_dict() if name.startswith(prefixes)}

    def state_dict(self) -> dict[str, Any]:
        """Return the LR schedules, and the backbone's digest in place of its frozen weights."""
        return {
            "schedules": [each.state_dict() for each in self.schedules],
            "base": self.backbone_digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the LR schedules.

        Raises:
            JobError: the pretrained weights differ from those that the run started with.
        """
        if state["base"] != self.backbone_digest:
            raise JobError(
                "The pretrained weights differ from those that this run started with. Restore "
                "them, or start the run again without --resume."
            )
        for schedule, values in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(values)


def _digest(backbone: nn.Module) -> str:
    """Return the SHA-256 of a backbone's structure and weights."""
    digest = hashlib.sha256(str(backbone).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
