"""MixUp and CutMix of the images and labels of a batch, by torchvision."""

from __future__ import annotations

import torch
from torch import Tensor

from eyevsai.training.settings import RegularizationSettings


def mix_batch(
    images: Tensor, labels: Tensor, num_classes: int, settings: RegularizationSettings
) -> tuple[Tensor, Tensor]:
    """Mix a batch with the probability `mixup_prob`, by MixUp or CutMix.

    Draws from torch's global random generator.

    Args:
        images: N,3,S,S float32.
        labels: N int64.
        num_classes: number of classes C.
        settings: the alphas; a method with alpha 0 is off. With both on, one is drawn at random.

    Returns:
        The images, and the labels: N,C float32 class shares if the batch was mixed, else unchanged.
    """
    alphas = {
        name: alpha
        for name, alpha in (("MixUp", settings.mixup), ("CutMix", settings.cutmix))
        if alpha
    }
    if not alphas or torch.rand(()) >= settings.mixup_prob:
        return images, labels
    from torchvision.transforms import v2  # here: its import takes memory that only mixing needs

    name = list(alphas)[int(torch.randint(len(alphas), ()))]
    mixed_images, shares = getattr(v2, name)(alpha=alphas[name], num_classes=num_classes)(
        images, labels
    )
    return mixed_images, shares
