"""Joint histograms of hue, saturation and value, and moments of opponent colours.

The histograms equal those by scikit-image and numpy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eyevsai.features.histogram import BLOCK_CELLS, Pyramid, stack_blocks

SECTORS = 6  # sectors of the hue: red, yellow, green, cyan, blue, magenta
BRIGHTEST = 255
HALF = 0.5
LEAST_DEVIATION = 1.0  # below it, rounding errors of the difference would matter


class ColorHistogram(nn.Module):
    """Relative frequencies of colours in each region of a pyramid.

    `hues` is the number of bins of the hue, `tones` that of saturation and of value.
    """

    def __init__(self, size_px: int, hues: int, tones: int, levels: int) -> None:
        super().__init__()
        self.hues, self.tones = hues, tones
        self.pyramid = Pyramid(size_px, levels, hues * tones * tones)
        self.dimensions = self.pyramid.dimensions

    def forward(self, red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
        """Return the histograms N,D float32 of three channels N,S,S float32, integers in 0..255."""
        shares: Tensor = self.pyramid(self.bins(red, green, blue))
        return shares

    def bins(self, red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
        """Return the bin N,S,S int64 of each pixel's colour, from three channels N,S,S float32.

        Each quotient has an integer numerator and denominator. Adding 0.5 to the numerator does not
        change the floor, but keeps the quotient away from bin borders: a runtime that multiplies by
        the reciprocal might cross them.
        """
        value = torch.maximum(torch.maximum(red, green), blue)
        chroma = value - torch.minimum(torch.minimum(red, green), blue)
        # In-place comparisons result in 0 or 1 in float32, an exact selection of integers. They are
        # faster than comparisons that result in bool.
        turn = green - blue
        turn.addcmul_(green.clone().eq_(value), torch.add(blue - red, chroma, alpha=2).sub_(turn))
        turn.addcmul_(blue.clone().eq_(value), torch.add(red - green, chroma, alpha=4).sub_(turn))
        hue = turn.mul_(self.hues).add_(HALF).div_((SECTORS * chroma).clamp_(min=1)).floor_()
        hue.add_(hue.clone().lt_(0), alpha=self.hues)
        saturation = (
            (chroma * self.tones)
            .add_(HALF)
            .div_(value.clamp(min=1))
            .floor_()
            .clamp_(max=self.tones - 1)
        )
        brightness = (
            (value * self.tones).add_(HALF).div_(BRIGHTEST).floor_().clamp_(max=self.tones - 1)
        )
        return (
            saturation.add_(hue, alpha=self.tones).mul_(self.tones).add_(brightness).to(torch.int64)
        )


class ColorBlocks(nn.Module):
    """Moments of colours in blocks of 2 x 2 cells.

    For each cell, they are the means of three opponent colours (red against green, yellow against
    blue, and the intensity; van de Sande et al. 2010) and the standard deviations of the channels,
    in grey levels.
    """

    def __init__(self, size_px: int, cells: int) -> None:
        super().__init__()
        self.cell_px = size_px // cells
        self.used_px = self.cell_px * cells
        self.blocks = cells - BLOCK_CELLS + 1  # along each side
        self.dimensions = BLOCK_CELLS**2 * 6

    def forward(self, red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
        """Return descriptors N,blocks,blocks,24 float32.

        The channels are N,S,S float32, integers in 0..255.
        """
        channels = torch.stack([red, green, blue], dim=1)[:, :, : self.used_px, : self.used_px]
        means = nn.functional.avg_pool2d(channels, self.cell_px)
        squares = nn.functional.avg_pool2d(channels * channels, self.cell_px)
        deviations = torch.sqrt((squares - means * means).clamp(min=LEAST_DEVIATION**2))
        reds, greens, blues = means.unbind(1)
        opponents = [
            (reds - greens) / 2,
            (reds + greens) / 4 - blues / 2,
            (reds + greens + blues) / 3,
        ]
        cells = torch.cat([torch.stack(opponents, dim=1), deviations], dim=1).permute(0, 2, 3, 1)
        return stack_blocks(cells).flatten(3)
