"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from eyevsai.training.settings import OptimizationSettings


def build_optimizer(
    parts: Sequence[nn.Module], settings: OptimizationSettings
) -> torch.optim.Optimizer:
    """The optimizer of `settings` over the weights of all parts; `part` of a group says whose
    weights it has.

    Biases and the parameters of normalisation, which have one dimension, are never decayed.
    """
    groups: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        weights = list(part.parameters())
        large, small = (
            [each for each in weights if each.ndim > 1],
            [each for each in weights if each.ndim <= 1],
        )
        decayed = {"params": large, "weight_decay": settings.weight_decay, "part": number}
        groups += [decayed, {"params": small, "weight_decay": 0.0, "part": number}]
    groups = [group for group in groups if group["params"]]
    fused = all(
        weight.device.type in ("cpu", "cuda") for group in groups for weight in group["params"]
    )
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=fused
        )
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=settings.lr, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)


class Schedule:
    """The learning rate as a function of time in epochs and, for plateau, of what was observed."""

    def __init__(self, settings: OptimizationSettings, lr: float, epochs: int) -> None:
        self.settings = settings
        self.lr = lr
        self.epochs = epochs
        self.drops_ = 0
        self.best_loss_ = math.inf
        self.waited_ = 0

    def rate(self, time: float) -> float:
        """The learning rate `time` epochs after the start."""
        if time < self.settings.warmup_epochs:
            return self.lr * time / self.settings.warmup_epochs
        return self.lr * max(self._share(time), self.settings.lr_floor)

    def _share(self, time: float) -> float:
        settings = self.settings
        if settings.schedule == "cosine":  # Loshchilov & Hutter 2017, without restarts
            course = max(self.epochs - settings.warmup_epochs, 1e-9)
            return (1 + math.cos(math.pi * min((time - settings.warmup_epochs) / course, 1.0))) / 2
        if settings.schedule == "step":
            return settings.step_factor ** int(time / settings.step_epochs)
        if settings.schedule == "plateau":
            return settings.step_factor**self.drops_
        return 1.0

    def observe(self, valid_loss: float) -> None:
        """Tells a plateau schedule how an epoch ended."""
        if valid_loss < self.best_loss_:
            self.best_loss_, self.waited_ = valid_loss, 0
            return
        self.waited_ += 1
        if self.waited_ > self.settings.plateau_patience:
            self.drops_, self.waited_ = self.drops_ + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return {"drops_": self.drops_, "best_loss_": self.best_loss_, "waited_": self.waited_}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.drops_, self.best_loss_, self.waited_ = (
            state["drops_"],
            state["best_loss_"],
            state["waited_"],
        )


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Gives the groups of each part its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["part"]]
