"""Extractor that concatenates the selected features of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyevsai.features.color import ColorHistogram
from eyevsai.features.hog import Hog
from eyevsai.features.lbp import Lbp
from eyevsai.features.settings import FeatureSettings

CIRCLES = {"8": ((8, 1),), "16": ((16, 2),), "both": ((8, 1), (16, 2))}  # (neighbours, radius)
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 times 65536, rounded as in Pillow
VERSION = 3  # part of the feature cache's key: increment it when any feature changes
BATCH = 4  # images at a time: intermediate results fit into the caches of a CPU core


class Extractor(nn.Module):
    """Feature extractor, N,S,S,3 uint8 -> N,D float32.

    `groups` has the columns of each feature, by name.
    """

    def __init__(self, settings: FeatureSettings, size_px: int) -> None:
        super().__init__()
        self.settings = settings
        levels = settings.pyramid_levels
        if "hog" in settings.groups:
            self.hog = Hog(size_px, settings.hog_orientations, settings.hog_cells)
        if "lbp" in settings.groups:
            circles = CIRCLES[settings.lbp_neighbours]
            self.lbp = nn.ModuleList(
                Lbp(size_px, count, radius, levels) for count, radius in circles
            )
        if "color" in settings.groups:
            self.color = ColorHistogram(size_px, settings.color_hues, settings.color_tones, levels)
        self.groups: dict[str, slice] = {}
        for name in settings.groups:
            start = self.dimensions
            self.groups[name] = slice(start, start + self._dimensions_of(name))

    @property
    def dimensions(self) -> int:
        """Number of features D of an image."""
        return max((columns.stop for columns in self.groups.values()), default=0)

    def forward(self, crops: Tensor) -> Tensor:
        """Return the features N,D float32 of images N,S,S,3 uint8."""
        channels = (
            crops.permute(3, 0, 1, 2)
            .to(torch.float32, memory_format=torch.contiguous_format)
            .unbind()
        )
        grey = grey_levels(*channels)
        return torch.cat(
            [self._describe(name, channels, grey) for name in self.settings.groups], dim=1
        )

    @torch.inference_mode()
    def extract(self, crops: Tensor) -> Tensor:
        """Return the features of many images, computed in batches of 4; 0,D for no images."""
        parts = [self(part) for part in crops.split(BATCH)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dimensions)

    def _describe(self, name: str, channels: Sequence[Tensor], grey: Tensor) -> Tensor:
        if name == "hog":
            gradients: Tensor = self.hog(channels if self.settings.hog_color else [grey])
            return gradients
        shares: Tensor = (
            self.color(*channels)
            if name == "color"
            else torch.cat([circle(grey) for circle in self.lbp], dim=1)
        )
        return torch.sqrt(shares) if self.settings.square_root else shares

    def _dimensions_of(self, name: str) -> int:
        part = getattr(self, name)
        return sum(each.dimensions for each in (part if name == "lbp" else [part]))


def grey_levels(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """Return Pillow's grey levels N,S,S float32 of three channels N,S,S float32.

    All values are integers in 0..255.
    """
    # sums are integers below 2**24, which float32 represents exactly
    weighted = torch.add(torch.add(red * LUMA[0], green, alpha=LUMA[1]), blue, alpha=LUMA[2])
    return weighted.add_(2**15).mul_(2**-16).floor_()
