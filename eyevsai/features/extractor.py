"""All chosen features of an image, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyevsai.features.color import ColorHistogram
from eyevsai.features.hog import Hog
from eyevsai.features.lbp import Lbp
from eyevsai.features.settings import FeatureSettings

CIRCLES = {"8": ((8, 1),), "16": ((16, 2),), "both": ((8, 1), (16, 2))}  # neighbours and radius
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 in 65536ths, as Pillow rounds it
VERSION = 2  # goes into the key of cached features: raise it when any of them changes
# images at a time: few enough that what is computed of them stays in the caches of a core
BATCH = 4


class Extractor(nn.Module):
    """N,S,S,3 uint8 -> N,D float32. `groups` says which columns belong to which feature."""

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
        """How many numbers describe an image."""
        return max((columns.stop for columns in self.groups.values()), default=0)

    def forward(self, crops: Tensor) -> Tensor:
        """N,S,S,3 uint8 -> N,D float32."""
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
        """The same, a few images at a time, for many of them."""
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
    """Three times N,S,S float32, whole numbers in 0..255 -> N,S,S float32: Pillow's grey, whole
    numbers too.
    """
    # below 2**24: exact
    weighted = torch.add(torch.add(red * LUMA[0], green, alpha=LUMA[1]), blue, alpha=LUMA[2])
    return weighted.add_(2**15).mul_(2**-16).floor_()
