"""Network whose backbone consists of stages, to be unfrozen one after another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# images per batch in frozen stages: their activations fit into the caches of a CPU core
EVAL_BATCH = 8


class StagedNetwork(nn.Module):
    """Network of backbone stages, global average pooling, and a head."""

    def __init__(self, stages: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the N,C logits of N,3,S,S images."""
        logits: Tensor = self.head(self.extract_features(images))
        return logits

    def extract_features(self, images: Tensor) -> Tensor:
        """Return the N,D features of N,3,S,S images.

        In training mode, the frozen stages run without gradients in batches of `EVAL_BATCH`.
        """
        frozen = 0
        if self.training:
            while frozen < len(self.stages) and not self.stages[frozen].training:
                frozen += 1
        if frozen:
            images = _run_in_batches(self.stages[:frozen], images)
        features: Tensor = self.global_pool(self.stages[frozen:](images))
        return features


@torch.no_grad()
def _run_in_batches(stages: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([stages(batch) for batch in images.split(EVAL_BATCH)])
