"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from eyevsai.training.settings import OptimizationSettings


def build_optimizer(network: nn.Module, settings: OptimizationSettings) -> torch.optim.Optimizer:
    """The optimizer of `settings` over the network's trainable weights.

    Biases and the parameters of normalisation, which have one dimension, are never decayed.
    """
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trainable if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in trainable if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(weight.device.type in ("cpu", "cuda") for weight in trainable)
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=settings.lr, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)


class Schedule:
    """The learning rate as a function of time in epochs and, for plateau, of what was observed."""

    def __init__(self, settings: OptimizationSettings) -> None:
        self.settings = settings
        self.drops_ = 0
        self.best_loss_ = math.inf
        self.waited_ = 0

    def rate(self, time: float) -> float:
        """The learning rate `time` epochs after the start."""
        settings = self.settings
        if time < settings.warmup_epochs:
            return settings.lr * time / settings.warmup_epochs
        return settings.lr * max(self._share(time), settings.lr_floor)

    def _share(self, time: float) -> float:
        settings = self.settings
        if settings.schedule == "cosine":  # Loshchilov & Hutter 2017, without restarts
            course = max(settings.epochs - settings.warmup_epochs, 1e-9)
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
        self.drops_, self.best_loss_, self.waited_ = state["drops_"], state["best_loss_"], state["waited_"]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the learning rate `rate`."""
    groups: Iterable[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        group["lr"] = rate
