"""What a trained network says of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eyevsai.data.preprocessing import Preprocessing

CPU_BATCH, BATCH = 16, 128  # of a small batch what is computed stays in the caches of a CPU


class FlipTTA(nn.Module):
    """A network that looks at each image and at its mirror image and averages what it says of
    them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """N,3,S,S -> N,C float32 logarithms of probabilities, which are logits too."""
        both: Tensor = self.network(torch.cat([images, images.flip(3)])).float()
        return average_flips(*both.chunk(2))


def average_flips(first: Tensor, second: Tensor) -> Tensor:
    """Twice N,C logits -> the logarithms of the mean of their probabilities."""
    mean = (first.softmax(1) + second.softmax(1)) / 2
    return torch.log(mean.clamp(min=torch.finfo(torch.float32).tiny))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside the block a network is as it predicts; afterwards each part as it was."""
    parts = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in parts:
            part.training = training


def predictor(network: nn.Module, *, tta_flip: bool) -> nn.Module:
    """The network as it predicts; shares the weights."""
    return FlipTTA(network).train(network.training) if tta_flip else network


@torch.inference_mode()
def predict_logits(
    network: nn.Module, preprocessing: Preprocessing, images: list[Tensor]
) -> Tensor:
    """Images H,W,3 uint8 of any sizes -> N,C float32 logits on the CPU, computed in float32."""
    device = next(network.parameters()).device
    outputs = []
    at_once = CPU_BATCH if device.type == "cpu" else BATCH
    with evaluating(network):
        for start in range(0, len(images), at_once):
            crops = torch.cat(
                [preprocessing.crop(image[None]) for image in images[start : start + at_once]]
            )
            outputs.append(network(preprocessing.normalize(crops.to(device))).float().cpu())
    return torch.cat(outputs)
