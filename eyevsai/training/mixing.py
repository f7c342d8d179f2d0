"""Blends of images of a batch, and what their labels are then; by torchvision."""

from __future__ import annotations

import torch
from torch import Tensor

from eyevsai.training.settings import RegularizationSettings


def mix(images: Tensor, labels: Tensor, num_classes: int, settings: RegularizationSettings) -> tuple[Tensor, Tensor]:
    """A batch N,3,S,S and its labels N int64, or N,C float32 shares of classes where the batch was mixed.

    Draws from torch's global generator.
    """
    from torchvision.transforms import v2

    ways = [
        way(alpha=alpha, num_classes=num_classes)
        for way, alpha in ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
        if alpha
    ]
    if not ways or torch.rand(()) >= settings.mix_share:
        return images, labels
    way = ways[int(torch.randint(len(ways), ()))]
    mixed, shares = way(images, labels)
    return mixed, shares
