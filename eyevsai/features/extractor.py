"""Extractor that concatenates the selected features of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyevsai.features.color import ColorBlocks, ColorHistogram
from eyevsai.features.hog import Gradients, Hog, HogBlocks
from eyevsai.features.lbp import Lbp
from eyevsai.features.settings import FeatureSettings
from eyevsai.features.visual_words import VisualWords

CIRCLES = {"8": ((8, 1),), "16": ((16, 2),), "both": ((8, 1), (16, 2))}  # (neighbours, radius)
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 times 65536, rounded as in Pillow
VERSION = 4  # part of the feature cache's key: increment it when any feature changes
# what a feature is computed from
PIXELS_OF = {
    "hog": "gradients",
    "lbp": "grey",
    "color": "channels",
    "hog_words": "gradients",
    "color_words": "channels",
}
BATCH = 4  # images at a time: intermediate results fit into the caches of a CPU core


class Extractor(nn.Module):
    """Feature extractor, N,S,S,3 uint8 -> N,D float32.

    `groups` has the columns of each feature, by name. The state dict has the codebooks of visual
    words, and is empty if there are none.
    """

    def __init__(self, settings: FeatureSettings, size_px: int) -> None:
        super().__init__()
        self.settings = settings
        if self._uses("gradients"):
            self.gradients = Gradients(settings.hog_orientations)
        self.groups: dict[str, slice] = {}
        for name in settings.groups:
            part = self._part(name, size_px)
            self.add_module(name, part)
            start = self.dimensions
            self.groups[name] = slice(start, start + int(part.dimensions))  # type: ignore[arg-type]

    @property
    def dimensions(self) -> int:
        """Number of features D of an image."""
        return max((columns.stop for columns in self.groups.values()), default=0)

    def forward(self, crops: Tensor) -> Tensor:
        """Return the features N,D float32 of images N,S,S,3 uint8."""
        pixels = self._pixels(crops)
        return torch.cat([self._describe(name, pixels) for name in self.settings.groups], dim=1)

    @torch.inference_mode()
    def extract(self, crops: Tensor) -> Tensor:
        """Return the features of many images, computed in batches of 4; 0,D for no images."""
        parts = [self(part) for part in crops.split(BATCH)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dimensions)

    @torch.inference_mode()
    def extract_blocks(self, crops: Tensor) -> dict[str, Tensor]:
        """Return the descriptors N,D float32 of all blocks of images, by group of visual words.

        Codebooks are fitted to them.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in self.settings.word_groups}
        for part in crops.split(BATCH):
            pixels = self._pixels(part)
            for name, blocks in parts.items():
                describe = self.get_submodule(f"{name}.describe")
                blocks.append(describe(*pixels[PIXELS_OF[name]]).flatten(0, 2))
        return {name: torch.cat(blocks) for name, blocks in parts.items()}

    def _part(self, name: str, size_px: int) -> nn.Module:
        settings = self.settings
        levels, cells = settings.pyramid_levels, settings.word_cells
        if name == "hog":
            return Hog(size_px, settings.hog_orientations, settings.hog_cells)
        if name == "lbp":
            circles = CIRCLES[settings.lbp_neighbours]
            return Circles(Lbp(size_px, count, radius, levels) for count, radius in circles)
        if name == "color":
            return ColorHistogram(size_px, settings.color_hues, settings.color_tones, levels)
        blocks = (
            HogBlocks(size_px, settings.hog_orientations, cells)
            if name == "hog_words"
            else ColorBlocks(size_px, cells)
        )
        return VisualWords(blocks, settings.words)

    def _uses(self, kind: str) -> bool:
        return any(PIXELS_OF[name] == kind for name in self.settings.groups)

    def _pixels(self, crops: Tensor) -> dict[str, Sequence[Tensor]]:
        """Return the arguments of the parts: the kinds in the values of PIXELS_OF, by name."""
        channels = (
            crops.permute(3, 0, 1, 2)
            .to(torch.float32, memory_format=torch.contiguous_format)
            .unbind()
        )
        pixels: dict[str, Sequence[Tensor]] = {"channels": channels}
        if self._uses("grey") or not self.settings.hog_color:
            pixels["grey"] = [grey_levels(*channels)]
        if self._uses("gradients"):
            source = channels if self.settings.hog_color else pixels["grey"]
            pixels["gradients"] = self.gradients(source)
        return pixels

    def _describe(self, name: str, pixels: dict[str, Sequence[Tensor]]) -> Tensor:
        shares: Tensor = self.get_submodule(name)(*pixels[PIXELS_OF[name]])
        return torch.sqrt(shares) if self.settings.square_root and name != "hog" else shares


class Circles(nn.ModuleList):
    """Local binary patterns of several circles, in one vector."""

    @property
    def dimensions(self) -> int:
        return sum(circle.dimensions for circle in self)  # type: ignore[misc]

    def forward(self, grey: Tensor) -> Tensor:
        """Return the relative frequencies N,D float32 for grey levels N,S,S float32."""
        return torch.cat([circle(grey) for circle in self], dim=1)


def grey_levels(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """Return Pillow's grey levels N,S,S float32 of three channels N,S,S float32.

    All values are integers in 0..255.
    """
    # sums are integers below 2**24, which float32 represents exactly
    weighted = torch.add(torch.add(red * LUMA[0], green, alpha=LUMA[1]), blue, alpha=LUMA[2])
    return weighted.add_(2**15).mul_(2**-16).floor_()
