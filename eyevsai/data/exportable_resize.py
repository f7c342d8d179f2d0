"""`Preprocessing.crop` as matrix products, for graphs that leave torch: the same pixels from images
of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyevsai.data.preprocessing import MAX_ASPECT, Preprocessing

BITS = 22  # the most that torch keeps of a weight
LARGEST = 2**15  # what a 16-bit weight stays below
BASE, DIGITS = 16, 6  # of a quotient: two bits more than the most
BYTE = 256
CUBIC = -0.5  # the sharpness of torch's antialiased bicubic filter (Keys 1981)


class ExportableResize(nn.Module):
    """N,H,W,3 uint8 of any size -> N,S,S,3 uint8; see docs/decisions/009-resize.md.

    torch's fixed-point weights are whole numbers, and so is all that is computed here: of numbers
    below 2 ** 24, which float32 adds and multiplies exactly, since some runtimes have nothing else.
    Only bicubic weights are not whole before they are rounded; they are computed in float64, where
    a runtime has it.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.side_px, self.short_px = preprocessing.image_size, preprocessing.short_side_px
        self.weigh = _linear if preprocessing.interpolation == "bilinear" else _cubic

    def forward(self, images: Tensor) -> Tensor:
        """Resize, then the centre."""
        height, width = (_number(images.shape[axis], images) for axis in (1, 2))
        short = torch.minimum(height, width)
        rows, columns = (self._weights(images, axis, short) for axis in (1, 2))
        planes = images.permute(0, 3, 1, 2).to(torch.float32)
        across = columns.sum_up(lambda weights: planes @ weights.T)
        return rows.sum_up(lambda weights: weights @ across).to(torch.uint8).permute(0, 2, 3, 1)

    def _weights(self, images: Tensor, axis: int, short: Tensor) -> Weights:
        """What each of L pixels along an axis of the image gives to each of the S of the crop.

        Rows of the whole resized image are computed, up to the most that it can have: the largest
        weight of all decides how many bits are kept.
        """
        length = _number(images.shape[axis], images)
        used = torch.minimum(length, MAX_ASPECT * short)
        first = torch.floor((length - used) / 2)  # of an image that is too long, the middle
        after = torch.maximum(
            _round_quotient(used * self.short_px, short), torch.full_like(used, self.short_px)
        )
        places = torch.arange(
            MAX_ASPECT * self.short_px, dtype=torch.float32, device=images.device
        )[:, None]
        pixels = torch.arange(images.shape[axis], dtype=torch.float32, device=images.device) - first
        inside = (pixels >= 0) & (pixels < used) & (places < after)
        distance = (2 * pixels + 1) * after - (2 * places + 1) * used
        weights = self.weigh(distance, 2 * torch.maximum(used, after), inside)
        begin = torch.floor((after - self.side_px) / 2).to(torch.int64)
        return weights.of_rows(begin + torch.arange(self.side_px, device=images.device))


@dataclass(frozen=True)
class Weights:
    """Weights S,L float32 as multiples of 1 / `unit`, which is a power of two; `inverse` is that 1
    / `unit`.
    """

    multiples: Tensor
    unit: Tensor
    inverse: Tensor

    def of_rows(self, rows: Tensor) -> Weights:
        """Some of the rows."""
        return Weights(self.multiples.index_select(0, rows), self.unit, self.inverse)

    def sum_up(self, multiply: Callable[[Tensor], Tensor]) -> Tensor:
        """The sums that `multiply` makes with weights, as levels of 0..255: in two parts, of eight
        bits each.
        """
        high = torch.floor(self.multiples / BYTE)
        low = multiply(self.multiples - BYTE * high)
        sums = multiply(high) + torch.floor(low / BYTE)
        return torch.clamp(
            torch.floor((sums + self.unit / (2 * BYTE)) * (self.inverse * BYTE)), 0, BYTE - 1
        )


def _number(size: int, like: Tensor) -> Tensor:
    """A size as a tensor, so that a graph computes it anew for each image."""
    return torch.ones((), dtype=torch.float32, device=like.device) * size


def _divide(dividend: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of whole numbers, of runtimes too whose quotient is a little off."""
    quotient = torch.floor(dividend / divisor)
    rest = dividend - quotient * divisor
    off = (rest >= divisor).to(rest.dtype) - (rest < 0).to(rest.dtype)
    return quotient + off, rest - off * divisor


def _round_quotient(dividend: Tensor, divisor: Tensor) -> Tensor:
    """Rounds as Python does: a half to the even neighbour."""
    quotient, rest = _divide(dividend, divisor)
    _, is_odd = _divide(quotient, torch.full_like(quotient, 2))
    return quotient + (2 * rest + is_odd > divisor).to(rest.dtype)


def _linear(distance: Tensor, reach: Tensor, inside: Tensor) -> Weights:
    shares = torch.clamp(reach - distance.abs(), min=0.0) * inside
    total = shares.sum(1, keepdim=True).clamp(min=1.0)
    quotient, rest = torch.zeros_like(shares), shares
    for _ in range(DIGITS):
        digit, rest = _divide(BASE * rest, total)
        quotient = BASE * quotient + digit
    unit, inverse = _find_unit(quotient.max() / BASE**DIGITS)
    kept = torch.floor(quotient * (2 / BASE**DIGITS) * unit)
    return Weights(torch.floor((kept + 1) / 2), unit, inverse)


def _cubic(distance: Tensor, reach: Tensor, inside: Tensor) -> Weights:
    far = distance.abs().to(torch.float64) / reach
    near = ((CUBIC + 2) * far - (CUBIC + 3)) * far * far + 1
    tail = (((far - 5) * far + 8) * far - 4) * CUBIC
    shares = torch.where(far < 1, near, torch.where(far < 2, tail, torch.zeros_like(far))) * inside
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
    unit, inverse = _find_unit(shares.max().to(torch.float32))
    multiples = torch.sign(shares) * torch.floor(shares.abs() * unit + 0.5)
    return Weights(multiples.to(torch.float32), unit, inverse)


def _find_unit(largest: Tensor) -> tuple[Tensor, Tensor]:
    """The power of two for as many bits as keep the largest weight in 16, and its inverse, neither
    of them computed.
    """
    powers = [2.0**bits for bits in range(BITS + 1)]
    units, inverses = (
        torch.tensor(each, device=largest.device)
        for each in (powers, [1 / power for power in powers])
    )
    fits = torch.floor(largest * units + 0.5) < LARGEST
    ones = torch.ones_like(units)
    return torch.where(fits, units, ones).max(), torch.where(fits, inverses, ones).min()
