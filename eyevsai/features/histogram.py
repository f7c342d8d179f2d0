"""Histograms of pixels by region, and the spatial pyramid that adds regions up."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionHistogram(nn.Module):
    """How much of each bin lies in each region of a grid over an image.

    Adding votes up one pixel after another takes as long as three additions of whole images, so it
    is done once, not once for each bin.
    """

    def __init__(self, side_px: int, regions: int, bins: int) -> None:
        super().__init__()
        region_px = side_px // regions
        self.rows = self.columns = regions
        self.area = region_px**2
        self.bins = bins
        row, column = (
            torch.arange(side_px)[:, None] // region_px,
            torch.arange(side_px) // region_px,
        )
        region = row * self.columns + column
        # what no whole region reaches, at the lower and right border, is counted in one that is
        # left out
        region[(row >= self.rows) | (column >= self.columns)] = self.rows * self.columns
        self.register_buffer("first_bins", (region * bins).flatten(), persistent=False)

    def forward(self, bins: Tensor, votes: Tensor | None = None) -> Tensor:
        """Bins N,H,W int64, which are used up, and votes N,H,W float32, 1 where there are none.

        -> N,rows,columns,bins float32: votes by pixel of a region.
        """
        first: Tensor = self.first_bins  # type: ignore[assignment]
        places = bins.flatten(1).add_(first)
        weights = (
            torch.ones((), device=bins.device).expand_as(places)
            if votes is None
            else votes.flatten(1)
        )
        sums = torch.zeros(
            bins.shape[0], (self.rows * self.columns + 1) * self.bins, device=bins.device
        )
        sums = sums.scatter_add(1, places, weights)[:, : -self.bins]
        return sums.view(-1, self.rows, self.columns, self.bins) / self.area


class Pyramid(nn.Module):
    """Shares of bins in grids of 1, 2, 4 ... regions a side (Lazebnik et al. 2006)."""

    def __init__(self, side_px: int, levels: int, bins: int) -> None:
        super().__init__()
        self.levels = levels
        self.histogram = RegionHistogram(side_px, 2 ** (levels - 1), bins)
        self.dimensions = bins * sum(4**level for level in range(levels))

    def forward(self, bins: Tensor) -> Tensor:
        """N,S,S int64 -> N,D float32: the shares of all regions, coarse grids first, each adding up
        to 1.
        """
        finest = self.histogram(bins).permute(0, 3, 1, 2)
        grids = [finest]
        for _ in range(1, self.levels):
            grids.append(nn.functional.avg_pool2d(grids[-1], 2))
        return torch.cat([grid.permute(0, 2, 3, 1).flatten(1) for grid in reversed(grids)], dim=1)
