"""Logits of a trained network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eyevsai.data.preprocessing import Preprocessing

EVALUATION_BATCH = 128


@torch.inference_mode()
def predict_logits(network: nn.Module, preprocessing: Preprocessing, images: list[Tensor]) -> Tensor:
    """Images H,W,3 uint8 of any sizes -> N,C float32 logits on the CPU, computed in float32."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    outputs = []
    for start in range(0, len(images), EVALUATION_BATCH):
        crops = torch.cat([preprocessing.crop(image[None]) for image in images[start : start + EVALUATION_BATCH]])
        outputs.append(network(preprocessing.normalize(crops.to(device))).float().cpu())
    network.train(training)
    return torch.cat(outputs)
