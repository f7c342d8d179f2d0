"""Blends of images of a batch, and what their labels are then; by torchvision."""

from __future__ import annotations

import torch
from torch import Tensor

from eyevsai.training.settings import RegularizationSettings


def mix_batch(
    images: Tensor, labels: Tensor, num_classes: int, settings: RegularizationSettings
) -> tuple[Tensor, Tensor]:
    """A batch N,3,S,S and its labels N int64, or N,C float32 shares of classes where the batch was
    mixed.

    Draws from torch's global generator.
    """
    alphas = {
        name: alpha
        for name, alpha in (("MixUp", settings.mixup), ("CutMix", settings.cutmix))
        if alpha
    }
    if not alphas or torch.rand(()) >= settings.mixup_prob:
        return images, labels
    from torchvision.transforms import v2  # takes memory that a run without it may not have

    name = list(alphas)[int(torch.randint(len(alphas), ()))]
    mixed, shares = getattr(v2, name)(alpha=alphas[name], num_classes=num_classes)(images, labels)
    return mixed, shares
