"""Histograms of oriented gradients (Dalal & Triggs 2005), as `skimage.feature.hog` computes
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyevsai.features.histogram import RegionHistogram

BLOCK_CELLS = 2  # a side
EPS, CLIP = 1e-5, 0.2  # of L2-Hys
STEEPEST = 255  # the largest difference of two pixels
SPAN = 2 * STEEPEST + 1


class Hog(nn.Module):
    """Gradients by orientation and cell, normalised by blocks of 2 x 2 cells.

    Of several channels, the gradient of a pixel is that of the channel in which it is steepest.
    """

    def __init__(self, size_px: int, orientations: int, cells: int) -> None:
        super().__init__()
        self.histogram = RegionHistogram(size_px, cells, orientations)
        blocks = cells - BLOCK_CELLS + 1
        self.dimensions = (blocks * BLOCK_CELLS) ** 2 * orientations
        self.register_buffer("bin_of_gradient", _bins_of_gradients(orientations), persistent=False)

    def forward(self, channels: Sequence[Tensor]) -> Tensor:
        """Channels N,S,S float32, whole numbers in 0..255, one or several -> N,D float32."""
        rows, columns, squares = _steepest(channels)
        places = (
            torch.add(columns, rows, alpha=SPAN).add_(STEEPEST * SPAN + STEEPEST).to(torch.int32)
        )
        bin_of_gradient: Tensor = self.bin_of_gradient  # type: ignore[assignment]
        bins = bin_of_gradient.index_select(0, places.flatten()).to(torch.int64).view_as(rows)
        return _normalize_blocks(self.histogram(bins, torch.sqrt(squares))).flatten(1)


def _bins_of_gradients(orientations: int) -> Tensor:
    """SPAN * SPAN int8: the bin of the unsigned orientation of each gradient that 8-bit pixels can
    have.

    A table, since single precision puts some on the other side of a border, and an arc tangent
    takes longer.
    """
    steps = torch.arange(-STEEPEST, STEEPEST + 1, dtype=torch.float64)
    angles = torch.rad2deg(torch.atan2(steps[:, None], steps[None])) % 180
    return (
        torch.floor(angles / (180 / orientations))
        .clamp(max=orientations - 1)
        .to(torch.int8)
        .flatten()
    )


def _gradient(channel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """N,S,S -> central differences along rows and columns, 0 at the borders, and the square of
    their length.
    """
    border = torch.zeros_like(channel[:, :1])
    rows = torch.cat([border, channel[:, 2:] - channel[:, :-2], border], dim=1)
    columns = nn.functional.pad(channel[:, :, 2:] - channel[:, :, :-2], (1, 1))
    return rows, columns, torch.addcmul(rows * rows, columns, columns)


def _steepest(channels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient, N,S,S each, of the channel in which it is longest, the first of equal ones, and
    its square.
    """
    rows, columns, squares = _gradient(channels[0])
    for channel in channels[1:]:
        other_rows, other_columns, other_squares = _gradient(channel)
        # 0 or 1 in float32: of whole numbers that selects exactly
        longer = other_squares.clone().gt_(squares)
        rows.addcmul_(longer, other_rows.sub_(rows))
        columns.addcmul_(longer, other_columns.sub_(columns))
        squares = torch.maximum(squares, other_squares)
    return rows, columns, squares


def _normalize_blocks(cells: Tensor) -> Tensor:
    """N,c,c,O -> N,c-1,c-1,2,2,O: blocks of 2 x 2 cells, each of length 1 after clipping (L2-Hys,
    Lowe 2004).
    """
    upper = torch.stack([cells[:, :-1, :-1], cells[:, :-1, 1:]], dim=3)
    lower = torch.stack([cells[:, 1:, :-1], cells[:, 1:, 1:]], dim=3)
    blocks = torch.stack([upper, lower], dim=3)
    clipped = (blocks / _length(blocks)).clamp(max=CLIP)
    return clipped / _length(clipped)


def _length(blocks: Tensor) -> Tensor:
    return torch.sqrt((blocks * blocks).sum((3, 4, 5), keepdim=True) + EPS**2)
