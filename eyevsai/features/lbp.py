"""Uniform rotation-invariant local binary patterns (Ojala et al. 2002)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eyevsai.features.histogram import Pyramid

DECIMALS = 5  # to which scikit-image rounds the places of neighbours
UNIT = 2**22  # in which shares of pixels are counted: 255 of them are below 2**31


class Lbp(nn.Module):
    """Each pixel's neighbours on a circle, as darker than itself or not.

    A pattern with at most two changes around the circle has the number of neighbours that are not darker
    as its code, every other pattern `neighbours` + 1: the codes are the same however the image is turned.
    """

    def __init__(self, size_px: int, neighbours: int, radius: int, levels: int) -> None:
        super().__init__()
        self.margin = radius
        self.places = [_place(number, neighbours, radius) for number in range(neighbours)]
        self.neighbours = [_corners(*place) for place in self.places]
        self.pyramid = Pyramid(size_px - 2 * radius, levels, neighbours + 2)
        self.dimensions = self.pyramid.dimensions
        self.register_buffer("code_of_pattern", _codes_of_patterns(neighbours), persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        """N,S,S float32 in 0..255 -> N,D float32: the share of each code in each region of the interior."""
        shares: Tensor = self.pyramid(self.codes(grey))
        return shares

    def codes(self, grey: Tensor) -> Tensor:
        """N,S,S float32, whole numbers -> N,S-2r,S-2r int64: codes of the pixels whose circle lies in the image.

        What lies between pixels is computed in whole numbers: floats are rounded otherwise in another runtime, and fall
        to the other side of a tie.
        """
        levels = grey.to(torch.int32)
        center = self._shift(levels, 0, 0) * UNIT
        pattern = torch.zeros_like(center, dtype=torch.float32)  # a number with one bit for each neighbour
        for number, ((row, column, weight), *others) in enumerate(self.neighbours):
            neighbour = self._shift(levels, row, column) * weight
            for down, right, share in others:
                neighbour.add_(self._shift(levels, down, right), alpha=share)
            pattern.add_(neighbour.ge(center), alpha=2**number)
        code_of_pattern: Tensor = self.code_of_pattern  # type: ignore[assignment]
        codes = code_of_pattern.index_select(0, pattern.to(torch.int32).flatten())
        return codes.to(torch.int64).view_as(pattern)

    def _shift(self, grey: Tensor, row: int, column: int) -> Tensor:
        margin, height, width = self.margin, grey.shape[1] - 2 * self.margin, grey.shape[2] - 2 * self.margin
        return grey[:, margin + row : margin + row + height, margin + column : margin + column + width]


def _place(number: int, neighbours: int, radius: int) -> tuple[float, float]:
    """Row and column of a neighbour, counted from the pixel."""
    angle = 2 * math.pi * number / neighbours
    return round(-radius * math.sin(angle), DECIMALS), round(radius * math.cos(angle), DECIMALS)


def _corners(row: float, column: float) -> list[tuple[int, int, int]]:
    """The pixels around a place, each with its share of the bilinear mean in UNITs; shares of 0 are left out."""
    top, left = math.floor(row), math.floor(column)
    down, right = row % 1, column % 1
    shares = {
        (top, left + 1): (1 - down) * right, (top + 1, left): down * (1 - right), (top + 1, left + 1): down * right,
    }  # fmt: skip
    weights = {place: round(share * UNIT) for place, share in shares.items()}
    weights[top, left] = UNIT - sum(weights.values())
    return [(*place, weight) for place, weight in weights.items() if weight]


def _codes_of_patterns(neighbours: int) -> Tensor:
    """2**neighbours int8."""
    patterns = torch.arange(2**neighbours)
    bits = (patterns[:, None] >> torch.arange(neighbours)) & 1
    changes = (bits != bits.roll(1, dims=1)).sum(1)
    return torch.where(changes > 2, neighbours + 1, bits.sum(1)).to(torch.int8)
