"""Histograms of pixels by region, and the spatial pyramid that adds regions up."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionHistogram(nn.Module):
    """How much of each bin lies in each region of a grid over an image.

    Adding votes up one pixel after another takes as long as three additions of whole images, so it is
    done once, not once for each bin.
    """

    def __init__(self, height: int, width: int, region_height: int, region_width: int, bins: int) -> None:
        super().__init__()
        self.rows, self.columns = height // region_height, width // region_width
        self.area = region_height * region_width
        self.bins = bins
        row, column = torch.arange(height) // region_height, torch.arange(width) // region_width
        region = row[:, None] * self.columns + column
        # what no whole region reaches, at the lower and right border, is counted in one that is left out
        region[(row[:, None] >= self.rows) | (column >= self.columns)] = self.rows * self.columns
        self.register_buffer("first_bins", (region * bins).flatten(), persistent=False)

    def forward(self, bins: Tensor, votes: Tensor | None = None) -> Tensor:
        """Bins N,H,W int64, which are used up, and votes N,H,W float32, 1 where there are none.

        -> N,rows,columns,bins float32: votes by pixel of a region.
        """
        first: Tensor = self.first_bins  # type: ignore[assignment]
        places = bins.flatten(1).add_(first)
        weights = torch.ones((), device=bins.device).expand_as(places) if votes is None else votes.flatten(1)
        sums = torch.zeros(len(bins), (self.rows * self.columns + 1) * self.bins, device=bins.device)
        sums = sums.scatter_add(1, places, weights)[:, : -self.bins]
        return sums.view(-1, self.rows, self.columns, self.bins) / self.area


class Pyramid(nn.Module):
    """Shares of bins in grids of 1, 2, 4 ... regions a side (Lazebnik et al. 2006)."""

    def __init__(self, side_px: int, levels: int, bins: int) -> None:
        super().__init__()
        self.levels = levels
        region = side_px >> (levels - 1)
        self.histogram = RegionHistogram(region << (levels - 1), region << (levels - 1), region, region, bins)
        self.side_px = region << (levels - 1)
        self.dimensions = bins * sum(4**level for level in range(levels))

    def forward(self, bins: Tensor) -> Tensor:
        """N,S,S int64 -> N,D float32: the shares of all regions, coarse grids first, each adding up to 1."""
        finest = self.histogram(bins[:, : self.side_px, : self.side_px]).permute(0, 3, 1, 2)
        grids = [finest]
        for _ in range(1, self.levels):
            grids.append(nn.functional.avg_pool2d(grids[-1], 2))
        return torch.cat([grid.permute(0, 2, 3, 1).flatten(1) for grid in reversed(grids)], dim=1)
