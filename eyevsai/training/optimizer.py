"""Construction of the optimizer, and assignment of learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from eyevsai.training.settings import OptimizationSettings


def build_optimizer(
    modules: Sequence[nn.Module], settings: OptimizationSettings
) -> torch.optim.Optimizer:
    """Return the optimizer of `settings` for the weights of all modules.

    Each parameter group has a key `part`: the index of its module. Biases and normalisation
    parameters, which have one dimension, get no weight decay. Empty groups are dropped.
    """
    groups: list[dict[str, Any]] = []
    for number, module in enumerate(modules):
        weights = list(module.parameters())
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


def set_lrs(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> None:
    """Set the learning rates of the parameter groups; `lrs` has one rate per module."""
    for group in optimizer.param_groups:
        group["lr"] = lrs[group["part"]]
