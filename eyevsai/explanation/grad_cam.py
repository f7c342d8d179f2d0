"""Class activation maps: Grad-CAM (Selvaraju et al. 2017)."""

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
    """Return the Grad-CAM heat maps, N,S,S float32 from 0 to 1, of N images.

    The feature maps before global pooling are weighted by the gradient of the class's logit. The
    maximum of each heat map is 1; it is 0 everywhere if no pixel supports the class.

    Args:
        learner: trained learner; S is the image size of its preprocessing.
        images: H,W,3 uint8 RGB images of any sizes.
        classes: index of the class to explain, for each image.
    """
    size = learner.preprocessing.image_size
    maps = [
        _class_activation(learner, image, number)
        for image, number in zip(images, classes, strict=True)
    ]
    if not maps:
        return np.zeros((0, size, size), dtype=np.float32)
    resized = functional.interpolate(
        torch.stack(maps)[:, None], (size, size), mode="bilinear", align_corners=False
    )[:, 0]
    highest = resized.amax((1, 2), keepdim=True)
    scaled: npt.NDArray[np.float32] = torch.where(highest > 0, resized / highest, resized).numpy()
    return scaled


def _class_activation(learner: SpatialLearner, image: npt.NDArray[np.uint8], number: int) -> Tensor:
    """Return the activation map of class `number`, with the size of the last feature map, >= 0."""
    captured: list[Tensor] = []

    def _capture(_pool: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # a leaf of the graph: no layer before it needs a gradient
        captured.append(inputs[0].detach().requires_grad_())
        return (captured[0],)

    hook = learner.global_pool().register_forward_pre_hook(_capture)
    try:
        with evaluating(learner.network), torch.enable_grad():
            crop = learner.preprocessing.crop(torch.from_numpy(np.ascontiguousarray(image))[None])
            device = next(learner.network.parameters()).device
            logits = learner.network(learner.preprocessing.normalize(crop.to(device)))
            (gradient,) = torch.autograd.grad(logits[0, number], captured[0])
    finally:
        hook.remove()
    weights = gradient.mean((2, 3), keepdim=True)
    return functional.relu((weights * captured[0].detach()).sum(1))[0].float().cpu()
