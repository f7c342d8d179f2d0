"""Inference with a trained network, with optional horizontal-flip TTA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from eyevsai.data.preprocessing import Preprocessing

# images per batch: on a CPU, the activations of a small batch fit into its caches
CPU_PIXELS, CPU_BATCH, BATCH = 16 * 96**2, 16, 128


class FlipTTA(nn.Module):
    """Network that averages the predictions of an image and its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return N,C float32 log-probabilities, usable as logits, of N,3,S,S images."""
        both: Tensor = self.network(torch.cat([images, images.flip(3)])).float()
        # not chunk(2), which would fix the batch size of a traced graph
        return average_flips(*both.unflatten(0, (2, -1)))


def average_flips(first: Tensor, second: Tensor) -> Tensor:
    """Return the log of the mean class probabilities, N,C, of two N,C tensors of logits."""
    mean = (first.softmax(1) + second.softmax(1)) / 2
    return torch.log(mean.clamp(min=torch.finfo(torch.float32).tiny))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put the network into eval mode inside the block, then restore the mode of each module.

    A network in eval mode is not changed: then its modules are assumed to be in eval mode, too.
    """
    if not network.training:  # a search of the modules takes 3 % of a small network's prediction
        yield
        return
    trained = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def predictor(network: nn.Module, *, tta_flip: bool) -> nn.Module:
    """Return the network itself or, with `tta_flip`, a `FlipTTA` that shares its weights."""
    return FlipTTA(network).train(network.training) if tta_flip else network


@torch.inference_mode()
def predict_logits(
    network: nn.Module, preprocessing: Preprocessing, images: Iterable[Tensor]
) -> Tensor:
    """Return the logits of images, N,C float32 on the CPU, computed in float32 in eval mode.

    Holds the images of one batch at a time.

    Args:
        network: network on its device, which takes N,3,S,S float32.
        preprocessing: crop and normalisation of the network.
        images: images H,W,3 uint8 of any sizes; at least one.
    """
    device = next(network.parameters()).device
    outputs = []
    batch_size = BATCH
    if device.type == "cpu":
        fitting = CPU_PIXELS // preprocessing.image_size**2
        batch_size = min(max(CPU_BATCH, fitting), BATCH)
    crops_of_images = (preprocessing.crop(image[None]) for image in images)
    with evaluating(network):
        while batch := list(islice(crops_of_images, batch_size)):
            crops = torch.cat(batch)
            outputs.append(network(preprocessing.normalize(crops.to(device))).float().cpu())
    return torch.cat(outputs)
