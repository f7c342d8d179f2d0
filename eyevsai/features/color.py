"""Histograms of colours: hue, saturation and value jointly, as scikit-image's `rgb2hsv` and numpy
count them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eyevsai.features.histogram import Pyramid

SECTORS = 6  # of the hue, between red, yellow, green, cyan, blue and magenta
BRIGHTEST = 255
HALF = 0.5


class ColorHistogram(nn.Module):
    """Shares of colours in each region of a pyramid."""

    def __init__(self, size_px: int, hues: int, tones: int, levels: int) -> None:
        super().__init__()
        self.hues, self.tones = hues, tones
        self.pyramid = Pyramid(size_px, levels, hues * tones * tones)
        self.dimensions = self.pyramid.dimensions

    def forward(self, red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
        """Three times N,S,S float32, whole numbers in 0..255 -> N,D float32."""
        shares: Tensor = self.pyramid(self.bins(red, green, blue))
        return shares

    def bins(self, red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
        """Three times N,S,S -> N,S,S int64: the number of each pixel's colour.

        Each quotient is one of whole numbers; a half more changes no floor, and keeps it from the
        borders, to the other side of which it would come where a runtime multiplies by the
        reciprocal.
        """
        value = torch.maximum(torch.maximum(red, green), blue)
        chroma = value - torch.minimum(torch.minimum(red, green), blue)
        # comparisons in place give 0 or 1 in float32: of whole numbers that selects exactly; to
        # bool they take longer
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
