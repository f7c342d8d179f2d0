"""The optimizer and the course of its learning rate."""

from __future__ import annotations

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


def set_lrs(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Gives the groups of each part its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["part"]]
