"""Sizes of the training images of a run whose images grow: progressive resizing.

Small images cost less, and teach the early epochs as much (Howard 2018, Training Imagenet in 3
hours for $25; Tan & Le 2021, EfficientNetV2).
"""

from __future__ import annotations

from dataclasses import dataclass

STEP, SMALLEST = 16, 32  # px; sizes that are not given by the user are multiples of STEP
GROWTH = 0.75  # share of the training in which images grow
SAMPLES = 1000  # of the numerical mean over a training


@dataclass(frozen=True)
class ImageSizes:
    """Sizes of square training images, in pixels, over a training.

    Args:
        image_size: size at the end.
        initial_scale: size at the start relative to `image_size`, from 0 to 1.
    """

    image_size: int
    initial_scale: float = 1.0

    def size_at(self, share: float) -> int:
        """Return the size after a share of the training, from 0 to 1: a multiple of 16, or full."""
        if self.initial_scale == 1 or share >= GROWTH:
            return self.image_size
        scale = self.initial_scale + (1 - self.initial_scale) * share / GROWTH
        size = STEP * round(self.image_size * scale / STEP)
        return min(max(size, SMALLEST), self.image_size)

    def cost_at(self, share: float) -> float:
        """Return the expected time of a step relative to one with full images: that of the area."""
        return (self.size_at(share) / self.image_size) ** 2

    @property
    def mean_cost(self) -> float:
        """Expected time of the training relative to one with full images."""
        return sum(self.cost_at((step + 0.5) / SAMPLES) for step in range(SAMPLES)) / SAMPLES
