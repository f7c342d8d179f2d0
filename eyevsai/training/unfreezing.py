"""Progressive unfreezing (Howard & Ruder 2018): a head on a frozen base, then stage after stage
from the top.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, nn

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.training.course import Course
from eyevsai.training.frozen import FrozenFeatures
from eyevsai.training.inference import average_flips, evaluating
from eyevsai.training.optimizer import Schedule
from eyevsai.training.settings import UnfreezingSettings
from eyevsai.training.staged import StagedNetwork


class Unfreezing(Course):
    """The head alone on features of the frozen base, computed once; then the base's stages as well,
    from the top.
    """

    def __init__(self, network: StagedNetwork, settings: UnfreezingSettings) -> None:
        self.network: StagedNetwork = network
        self.settings = settings
        self.num_epochs = settings.epochs
        self.parts = [network.head, *reversed(network.stages)]
        self.schedules = (
            Schedule(settings, settings.lr, settings.freeze_base_epochs),
            Schedule(settings, settings.fine_tune_lr, settings.fine_tune_epochs),
        )
        self.frozen = FrozenFeatures(settings)
        self.base_digest = _digest(network.stages)

    def num_unfrozen(self, epoch: int) -> int:
        """How many stages an epoch, counted from 1, trains."""
        settings, tuned = self.settings, epoch - self.settings.freeze_base_epochs
        if tuned <= 0 or not settings.fine_tune_epochs:
            return 0
        return math.ceil(
            min(tuned, settings.fine_tune_epochs)
            * settings.unfreeze_stages
            / settings.fine_tune_epochs
        )

    def begin(self, epoch: int) -> dict[str, float]:
        """See `Course.begin`: frozen stages keep their statistics too."""
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

    def rates(self, time: float) -> list[float]:
        """See `Course.rates`: lower stages learn slower."""
        settings = self.settings
        if time <= settings.freeze_base_epochs and settings.freeze_base_epochs:
            return [self.schedules[0].rate(time)] + [0.0] * len(self.network.stages)
        rate = self.schedules[1].rate(time - settings.freeze_base_epochs)
        return [rate] + [
            rate * settings.stage_lr_decay**depth for depth in range(len(self.network.stages))
        ]

    def observe(self, epoch: int, valid_loss: float) -> None:
        """See `Course.observe`."""
        self.schedules[epoch > self.settings.freeze_base_epochs].observe(valid_loss)

    def waited(self, epoch: int, best_epoch: int) -> int:
        """See `Course.waited`: a head that has learned all it can still waits for the base to be
        unfrozen.
        """
        settled = next(
            each
            for each in range(self.num_epochs, -1, -1)
            if each == 0 or self.num_unfrozen(each) != self.num_unfrozen(self.num_epochs)
        )
        return epoch - max(best_epoch, min(settled, epoch))

    def prepare(
        self,
        epoch: int,
        splits: tuple[Split, Split],
        preprocessing: Preprocessing,
        stop: CancellationToken,
    ) -> None:
        """See `Course.prepare`: the features of the frozen base."""
        if not self.num_unfrozen(epoch):
            self.frozen.compute(self.network, self.base_digest, splits, preprocessing, stop)

    def features(self, epoch: int, places: Tensor, generator: torch.Generator) -> Tensor | None:
        """See `Course.features`: of each image one of its views, by chance."""
        if self.num_unfrozen(epoch):
            return None
        return self.frozen.draw(places, generator)

    def valid_logits(self, epoch: int, network: nn.Module) -> Tensor | None:
        """See `Course.valid_logits`."""
        if self.num_unfrozen(epoch):
            return None
        head: nn.Module = network.head  # type: ignore[assignment]
        device = next(head.parameters()).device
        with torch.inference_mode(), evaluating(head):
            outputs = [head(view.to(device)).float().cpu() for view in self.frozen.valid_]
        return outputs[0] if len(outputs) == 1 else average_flips(*outputs)

    def trained(self, epoch: int) -> nn.Module:
        """See `Course.trained`."""
        return self.network if self.num_unfrozen(epoch) else self.network.head

    def untouched(self, epoch: int) -> Set[str]:
        """See `Course.untouched`: what lies in stages that no epoch has unfrozen."""
        prefixes = tuple(
            f"stages.{number}."
            for number in range(len(self.network.stages) - self.num_unfrozen(epoch))
        )
        return {name for name in self.network.state_dict() if name.startswith(prefixes)}

    def state_dict(self) -> dict[str, Any]:
        """See `Course.state_dict`; frozen weights are not in checkpoints, so their digest is."""
        return {
            "schedules": [each.state_dict() for each in self.schedules],
            "base": self.base_digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Course.load_state_dict`.

        Raises:
            JobError: the base does not begin with the weights that it began with.
        """
        if state["base"] != self.base_digest:
            raise JobError(
                "The pretrained weights are not those that this run began with. Put them back "
                "where they "
                "were, or start the run again without --resume."
            )
        for schedule, values in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(values)


def _digest(base: nn.Module) -> str:
    """SHA-256 of a base: what it is made of, and its weights."""
    digest = hashlib.sha256(str(base).encode())
    for name, tensor in base.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
