"""Where a network looked: Grad-CAM (Selvaraju et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from eyevsai.models.learner import SpatialLearner
from eyevsai.training.inference import evaluating


def grad_cam(
    learner: SpatialLearner, images: Sequence[npt.NDArray[np.uint8]], classes: Sequence[int]
) -> npt.NDArray[np.float32]:
    """N images uint8 RGB and a class for each -> N,S,S float32 of 0 to 1: how much each place
    speaks for that class.

    The map that the network averages over places is weighed by the gradient of the class's logit.
    """
    size = learner.preprocessing.image_size
    heat = [
        _cam_of_class(learner, image, number) for image, number in zip(images, classes, strict=True)
    ]
    if not heat:
        return np.zeros((0, size, size), dtype=np.float32)
    whole = functional.interpolate(
        torch.stack(heat)[:, None], (size, size), mode="bilinear", align_corners=False
    )[:, 0]
    highest = whole.amax((1, 2), keepdim=True)
    found: npt.NDArray[np.float32] = torch.where(highest > 0, whole / highest, whole).numpy()
    return found


def _cam_of_class(learner: SpatialLearner, image: npt.NDArray[np.uint8], number: int) -> Tensor:
    """H,W of the network's last map, not below 0."""
    kept: list[Tensor] = []

    def _keep(_pool: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # a leaf: nothing before it needs a gradient
        kept.append(inputs[0].detach().requires_grad_())
        return (kept[0],)

    hook = learner.global_pool().register_forward_pre_hook(_keep)
    try:
        with evaluating(learner.network), torch.enable_grad():
            crop = learner.preprocessing.crop(torch.from_numpy(np.ascontiguousarray(image))[None])
            device = next(learner.network.parameters()).device
            logits = learner.network(learner.preprocessing.normalize(crop.to(device)))
            (gradient,) = torch.autograd.grad(logits[0, number], kept[0])
    finally:
        hook.remove()
    weights = gradient.mean((2, 3), keepdim=True)
    return functional.relu((weights * kept[0].detach()).sum(1))[0].float().cpu()
