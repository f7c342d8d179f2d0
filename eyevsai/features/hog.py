"""Histograms of oriented gradients (Dalal & Triggs 2005), equal to `skimage.feature.hog`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyevsai.features.histogram import BLOCK_CELLS, RegionHistogram, stack_blocks

EPS, CLIP = 1e-5, 0.2  # L2-Hys normalisation
STEEPEST = 255  # maximum difference of two pixels
SPAN = 2 * STEEPEST + 1  # number of possible differences


class Gradients(nn.Module):
    """Orientation bin and magnitude of the gradient of each pixel.

    With several channels, the gradient of a pixel is the one with the largest magnitude.
    """

    def __init__(self, orientations: int) -> None:
        super().__init__()
        self.register_buffer("bin_of_gradient", _bins_of_gradients(orientations), persistent=False)

    def forward(self, channels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return bins N,S,S int64 and magnitudes N,S,S float32.

        The channels are N,S,S float32, integers in 0..255.
        """
        rows, columns, squares = _steepest_gradients(channels)
        indices = (
            torch.add(columns, rows, alpha=SPAN).add_(STEEPEST * SPAN + STEEPEST).to(torch.int32)
        )
        bin_of_gradient: Tensor = self.bin_of_gradient  # type: ignore[assignment]
        bins = bin_of_gradient.index_select(0, indices.flatten()).to(torch.int64).view_as(rows)
        return bins, torch.sqrt(squares)


class HogBlocks(nn.Module):
    """Histograms of gradients by orientation and cell, normalised in blocks of 2 x 2 cells."""

    def __init__(self, size_px: int, orientations: int, cells: int) -> None:
        super().__init__()
        self.histogram = RegionHistogram(size_px, cells, orientations)
        self.blocks = cells - BLOCK_CELLS + 1  # along each side
        self.dimensions = BLOCK_CELLS**2 * orientations
        # A tensor with an axis: ONNX's optimizer removes the addition of a scalar below 1e-8, and
        # blocks without gradients would become 0 / 0.
        self.register_buffer("floor", torch.tensor([EPS**2]), persistent=False)

    def forward(self, bins: Tensor, magnitudes: Tensor) -> Tensor:
        """Return descriptors N,blocks,blocks,D float32 of the results of `Gradients`."""
        floor: Tensor = self.floor  # type: ignore[assignment]
        return _normalize_blocks(self.histogram(bins, magnitudes), floor).flatten(3)


class Hog(nn.Module):
    """Descriptors of all blocks of an image, in one vector."""

    def __init__(self, size_px: int, orientations: int, cells: int) -> None:
        super().__init__()
        self.describe = HogBlocks(size_px, orientations, cells)
        self.dimensions = self.describe.blocks**2 * self.describe.dimensions

    def forward(self, bins: Tensor, magnitudes: Tensor) -> Tensor:
        """Return the features N,D float32 of the results of `Gradients`."""
        descriptors: Tensor = self.describe(bins, magnitudes)
        return descriptors.flatten(1)


def _bins_of_gradients(orientations: int) -> Tensor:
    """Return a table, SPAN * SPAN int8, of the orientation bin of each gradient of 8-bit pixels.

    Orientations are unsigned, 0 to 180 degrees. An arc tangent in single precision would be slower,
    and would move gradients at bin borders to another bin.
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
    """Return the central differences along both axes, N,S,S each, and the squared magnitude.

    Differences are 0 at the borders of their axis.
    """
    border = torch.zeros_like(channel[:, :1])
    rows = torch.cat([border, channel[:, 2:] - channel[:, :-2], border], dim=1)
    columns = nn.functional.pad(channel[:, :, 2:] - channel[:, :, :-2], (1, 1))
    return rows, columns, torch.addcmul(rows * rows, columns, columns)


def _steepest_gradients(channels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient with the largest magnitude among the channels, and its square.

    The tensors are N,S,S. The first of channels with the same magnitude is used.
    """
    rows, columns, squares = _gradient(channels[0])
    for channel in channels[1:]:
        other_rows, other_columns, other_squares = _gradient(channel)
        # 0 or 1 in float32: an exact selection of integers
        longer = other_squares.clone().gt_(squares)
        rows.addcmul_(longer, other_rows.sub_(rows))
        columns.addcmul_(longer, other_columns.sub_(columns))
        squares = torch.maximum(squares, other_squares)
    return rows, columns, squares


def _normalize_blocks(cells: Tensor, floor: Tensor) -> Tensor:
    """Return blocks of 2 x 2 cells with L2-Hys normalisation, N,c,c,O -> N,c-1,c-1,2,2,O.

    Blocks are normalised, clipped and normalised again (Lowe 2004). `floor` (shape 1) is added to
    squared lengths.
    """
    blocks = stack_blocks(cells)
    clipped = (blocks / _length(blocks, floor)).clamp(max=CLIP)
    return clipped / _length(clipped, floor)


def _length(blocks: Tensor, floor: Tensor) -> Tensor:
    return torch.sqrt((blocks * blocks).sum((3, 4, 5), keepdim=True) + floor)
