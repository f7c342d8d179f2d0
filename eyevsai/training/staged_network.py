"""A network whose base can be unfrozen stage by stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# images in a frozen stage: what is computed of them stays in the caches of a CPU's core
EVAL_BATCH = 8


class StagedNetwork(nn.Module):
    """Five stages from images to a map of features, the average of that map, and a head."""

    def __init__(self, stages: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """N,3,S,S -> N,C logits."""
        logits: Tensor = self.head(self.extract_features(images))
        return logits

    def extract_features(self, images: Tensor) -> Tensor:
        """N,3,S,S -> N,D features. Stages that are frozen while others are trained take a few
        images at a time.
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
    return torch.cat([stages(part) for part in images.split(EVAL_BATCH)])
