"""Histograms of pixels by region, and spatial pyramids of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCK_CELLS = 2  # cells along each side of a block


class RegionHistogram(nn.Module):
    """Histogram of each region of a square grid over an image.

    One scatter over the pixels takes as long as three additions of whole images; it is faster than
    a sum for each bin.
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
        # Pixels outside of whole regions, at the lower and right border, are counted in an extra
        # region, which is dropped.
        region[(row >= self.rows) | (column >= self.columns)] = self.rows * self.columns
        self.register_buffer("first_bins", (region * bins).flatten(), persistent=False)

    def forward(self, bins: Tensor, votes: Tensor | None = None) -> Tensor:
        """Return N,rows,columns,bins float32: the votes for each bin divided by the region's area.

        The arguments are those of `sum_votes`.
        """
        return self.sum_votes(bins, votes) / self.area

    def sum_votes(self, bins: Tensor, votes: Tensor | None = None) -> Tensor:
        """Return N,rows,columns,bins float32: the votes for each bin.

        Args:
            bins: N,H,W int64, the bin of each pixel.
            votes: N,H,W float32, the weight of each pixel; 1 if None.
        """
        first: Tensor = self.first_bins  # type: ignore[assignment]
        indices = bins.flatten(1) + first
        weights = (
            torch.ones((), device=bins.device).expand_as(indices)
            if votes is None
            else votes.flatten(1)
        )
        sums = torch.zeros(
            bins.shape[0], (self.rows * self.columns + 1) * self.bins, device=bins.device
        )
        sums = sums.scatter_add(1, indices, weights)[:, : -self.bins]
        return sums.view(-1, self.rows, self.columns, self.bins)


def stack_blocks(cells: Tensor) -> Tensor:
    """Return the overlapping blocks of 2 x 2 cells: N,c,c,D -> N,c-1,c-1,2,2,D."""
    upper = torch.stack([cells[:, :-1, :-1], cells[:, :-1, 1:]], dim=3)
    lower = torch.stack([cells[:, 1:, :-1], cells[:, 1:, 1:]], dim=3)
    return torch.stack([upper, lower], dim=3)


class Pyramid(nn.Module):
    """Spatial pyramid: histograms in grids of 1, 2, 4 ... regions a side (Lazebnik et al. 2006)."""

    def __init__(self, side_px: int, levels: int, bins: int) -> None:
        super().__init__()
        self.levels = levels
        self.histogram = RegionHistogram(side_px, 2 ** (levels - 1), bins)
        self.dimensions = bins * sum(4**level for level in range(levels))

    def forward(self, bins: Tensor) -> Tensor:
        """Return the relative frequencies N,D float32 of bins N,S,S int64, coarse grids first.

        The histogram of each region sums to 1. Means of four counts are exact in float32, and are
        divided once: equal frequencies are equal to the last bit, in each runtime. Trees would
        otherwise split between two roundings of one frequency.
        """
        finest = self.histogram.sum_votes(bins).permute(0, 3, 1, 2)
        grids = [finest]
        for _ in range(1, self.levels):
            grids.append(nn.functional.avg_pool2d(grids[-1], 2))
        counts = [grid.permute(0, 2, 3, 1).flatten(1) for grid in reversed(grids)]
        return torch.cat(counts, dim=1) / self.histogram.area
