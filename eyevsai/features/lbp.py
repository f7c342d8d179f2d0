"""Uniform rotation-invariant local binary patterns (Ojala et al. 2002)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eyevsai.features.histogram import Pyramid

DECIMALS = 5  # to which scikit-image rounds the places of neighbours


class Lbp(nn.Module):
    """Each pixel's neighbours on a circle, as darker than itself or not.

    A pattern with at most two changes around the circle has the number of neighbours that are not
    darker as its code, every other pattern `neighbours` + 1: the codes are the same however the
    image is turned.
    """

    def __init__(self, size_px: int, neighbours: int, radius: int, levels: int) -> None:
        super().__init__()
        self.margin = radius
        self.places = [_place(number, neighbours, radius) for number in range(neighbours)]
        self.pyramid = Pyramid(size_px - 2 * radius, levels, neighbours + 2)
        self.dimensions = self.pyramid.dimensions
        self.register_buffer("code_of_pattern", _codes_of_patterns(neighbours), persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        """N,S,S float32 in 0..255 -> N,D float32: the share of each code in each region of the
        interior.
        """
        shares: Tensor = self.pyramid(self.codes(grey))
        return shares

    def codes(self, grey: Tensor) -> Tensor:
        """N,S,S float32 -> N,S-2r,S-2r int64: the codes of the pixels whose whole circle lies in
        the image.
        """
        center = self._shift(grey, 0, 0)
        between = {
            column: self._between_columns(grey, column)
            for row, column in self.places
            if row % 1 and column % 1
        }
        pattern = torch.zeros_like(center)  # a number with one bit for each neighbour
        for number, (row, column) in enumerate(self.places):
            neighbour = (
                self._shift(grey, int(row), int(column)).clone()
                if row % 1 == 0 == column % 1
                else (self._between_rows(between[column], row))
            )
            pattern.add_(neighbour.ge_(center), alpha=2**number)
        code_of_pattern: Tensor = self.code_of_pattern  # type: ignore[assignment]
        codes = code_of_pattern.index_select(0, pattern.to(torch.int32).flatten())
        return codes.to(torch.int64).view_as(pattern)

    def _shift(self, grey: Tensor, row: int, column: int) -> Tensor:
        margin, height, width = (
            self.margin,
            grey.shape[1] - 2 * self.margin,
            grey.shape[2] - 2 * self.margin,
        )
        return grey[
            :, margin + row : margin + row + height, margin + column : margin + column + width
        ]

    def _between_columns(self, grey: Tensor, column: float) -> Tensor:
        """N,S,S -> N,S,S-2r: all rows of what lies at `column` from each pixel; several neighbours
        share it.
        """
        left, width = self.margin + math.floor(column), grey.shape[2] - 2 * self.margin
        return _between(
            grey[:, :, left : left + width], grey[:, :, left + 1 : left + 1 + width], column % 1
        )

    def _between_rows(self, lines: Tensor, row: float) -> Tensor:
        """N,S,S-2r -> N,S-2r,S-2r: what lies at `row` from each pixel."""
        top, height = self.margin + math.floor(row), lines.shape[1] - 2 * self.margin
        return _between(lines[:, top : top + height], lines[:, top + 1 : top + 1 + height], row % 1)


def _between(near: Tensor, far: Tensor, share: float) -> Tensor:
    """What lies between two, one rounding at a time: lerp's fused ones fall to the other side of a
    tie elsewhere.
    """
    if share > 0.5:
        near, far, share = far, near, 1 - share
    return (far - near).mul_(share).add_(near)


def _place(number: int, neighbours: int, radius: int) -> tuple[float, float]:
    """Row and column of a neighbour, counted from the pixel."""
    angle = 2 * math.pi * number / neighbours
    return round(-radius * math.sin(angle), DECIMALS), round(radius * math.cos(angle), DECIMALS)


def _codes_of_patterns(neighbours: int) -> Tensor:
    """2**neighbours int8."""
    patterns = torch.arange(2**neighbours)
    bits = (patterns[:, None] >> torch.arange(neighbours)) & 1
    changes = (bits != bits.roll(1, dims=1)).sum(1)
    return torch.where(changes > 2, neighbours + 1, bits.sum(1)).to(torch.int8)
