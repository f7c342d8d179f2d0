"""Uniform rotation-invariant local binary patterns (Ojala et al. 2002)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eyevsai.features.histogram import Pyramid

DECIMALS = 5  # precision to which scikit-image rounds the offsets of neighbours


class Lbp(nn.Module):
    """Relative frequencies of local binary patterns in each region of a pyramid.

    The pattern of a pixel has a bit for each neighbour on a circle: 0 if it is darker than the
    pixel, else 1. The code of a pattern with at most two changes around the circle is its number of
    ones; the code of all others is `neighbours` + 1. Codes do not depend on the image's rotation.
    """

    def __init__(self, size_px: int, neighbours: int, radius: int, levels: int) -> None:
        super().__init__()
        self.margin = radius
        self.offsets = [_offset(number, neighbours, radius) for number in range(neighbours)]
        self.pyramid = Pyramid(size_px - 2 * radius, levels, neighbours + 2)
        self.dimensions = self.pyramid.dimensions
        self.register_buffer("code_of_pattern", _codes_of_patterns(neighbours), persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        """Return the relative frequencies N,D float32 of codes, for grey levels N,S,S float32.

        Grey levels are in 0..255. Pixels within `radius` of the border are left out.
        """
        shares: Tensor = self.pyramid(self.codes(grey))
        return shares

    def codes(self, grey: Tensor) -> Tensor:
        """Return the codes N,S-2r,S-2r int64 of grey levels N,S,S float32, for radius r.

        They are those of the pixels whose whole circle is inside the image.
        """
        center = self._shift(grey, 0, 0)
        by_column = {  # several neighbours have the same column
            column: self._interpolate_columns(grey, column)
            for row, column in self.offsets
            if row % 1 and column % 1
        }
        pattern = torch.zeros_like(center)  # integer with one bit for each neighbour
        for number, (row, column) in enumerate(self.offsets):
            neighbour = (
                self._shift(grey, int(row), int(column)).clone()
                if row % 1 == 0 == column % 1
                else self._interpolate_rows(by_column[column], row)
            )
            pattern.add_(neighbour.ge_(center), alpha=2**number)
        code_of_pattern: Tensor = self.code_of_pattern  # type: ignore[assignment]
        codes = code_of_pattern.index_select(0, pattern.to(torch.int32).flatten())
        return codes.to(torch.int64).view_as(pattern)

    def _shift(self, grey: Tensor, row: int, column: int) -> Tensor:
        """Return the pixel at an offset from each interior pixel, N,S,S -> N,S-2r,S-2r, a view."""
        margin, height, width = (
            self.margin,
            grey.shape[1] - 2 * self.margin,
            grey.shape[2] - 2 * self.margin,
        )
        return grey[
            :, margin + row : margin + row + height, margin + column : margin + column + width
        ]

    def _interpolate_columns(self, grey: Tensor, column: float) -> Tensor:
        """Return the values at an offset in columns, for all rows, N,S,S -> N,S,S-2r."""
        start, width = self.margin + math.floor(column), grey.shape[2] - 2 * self.margin
        return _interpolate(
            grey[:, :, start : start + width], grey[:, :, start + 1 : start + 1 + width], column % 1
        )

    def _interpolate_rows(self, lines: Tensor, row: float) -> Tensor:
        """Return the values at an offset in rows, N,S,S-2r -> N,S-2r,S-2r."""
        start, height = self.margin + math.floor(row), lines.shape[1] - 2 * self.margin
        return _interpolate(
            lines[:, start : start + height], lines[:, start + 1 : start + 1 + height], row % 1
        )


def _interpolate(near: Tensor, far: Tensor, weight: float) -> Tensor:
    """Return the linear interpolation; `weight` (0 to 1) is that of `far`.

    Each operation is rounded by itself: `torch.lerp` fuses them, and breaks ties differently from
    one runtime to another.
    """
    if weight > 0.5:
        near, far, weight = far, near, 1 - weight
    return (far - near).mul_(weight).add_(near)


def _offset(number: int, neighbours: int, radius: int) -> tuple[float, float]:
    """Return row and column of a neighbour relative to the pixel."""
    angle = 2 * math.pi * number / neighbours
    return round(-radius * math.sin(angle), DECIMALS), round(radius * math.cos(angle), DECIMALS)


def _codes_of_patterns(neighbours: int) -> Tensor:
    """Return the code of each pattern, 2**neighbours int8."""
    patterns = torch.arange(2**neighbours)
    bits = (patterns[:, None] >> torch.arange(neighbours)) & 1
    changes = (bits != bits.roll(1, dims=1)).sum(1)
    return torch.where(changes > 2, neighbours + 1, bits.sum(1)).to(torch.int8)
