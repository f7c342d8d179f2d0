"""Construction of the optimizer, and assignment of learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eyevsai.training.muon import Muon
from eyevsai.training.settings import OptimizationSettings

IMAGE_CHANNELS = 3


def build_optimizer(
    modules: Sequence[nn.Module], settings: OptimizationSettings
) -> torch.optim.Optimizer:
    """Return the optimizer of `settings` for the weights of all modules.

    Each parameter group has a key `part`: the index of its module. Biases and normalisation
    parameters, which have one dimension, get no weight decay. Empty groups are dropped.
    """
    is_muon = settings.optimizer == "muon"
    groups: list[dict[str, Any]] = []
    for number, module in enumerate(modules):
        weights = list(module.parameters())
        matrices = [each for each in weights if is_muon and _is_hidden_convolution(each)]
        taken = set(map(id, matrices))
        large = [each for each in weights if each.ndim > 1 and id(each) not in taken]
        small = [each for each in weights if each.ndim <= 1]
        decayed = {"weight_decay": settings.weight_decay, "part": number}
        groups += [
            {"params": matrices, "orthogonalize": True, **decayed},
            {"params": large, **decayed},
            {"params": small, "weight_decay": 0.0, "part": number},
        ]
    groups = [group for group in groups if group["params"]]
    fused = all(
        weight.device.type in ("cpu", "cuda") for group in groups for weight in group["params"]
    )
    if is_muon:
        return Muon(groups, settings.lr, settings.momentum)
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=fused
        )
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=settings.lr, fused=fused)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)


def _is_hidden_convolution(weight: Tensor) -> bool:
    """Return True for the weights of a convolution that mixes channels other than an image's."""
    return weight.ndim == 4 and weight.shape[1] > IMAGE_CHANNELS


def set_lrs(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> None:
    """Set the learning rates of the parameter groups; `lrs` has one rate per module."""
    for group in optimizer.param_groups:
        group["lr"] = lrs[group["part"]]
