"""`Preprocessing.crop` as matrix products, for exported graphs: equal to torch's resize.

The graphs take images of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyevsai.data.preprocessing import MAX_ASPECT, Preprocessing

MAX_BITS = 22  # maximum fractional bits of torch's fixed-point weights
WEIGHT_LIMIT = 2**15  # exclusive bound of a signed 16-bit weight
BASE, DIGITS = 16, 6  # long division: 24 bits, two more than MAX_BITS
BYTE = 256
CUBIC = -0.5  # parameter a of torch's antialiased bicubic filter (Keys 1981)


class ExportableResize(nn.Module):
    """Resize and centre crop, N,H,W,3 uint8 of any size -> N,S,S,3 uint8.

    It reproduces torch's fixed-point weights (docs/decisions/009-resize.md). All values are
    integers below 2 ** 24, which float32 adds and multiplies exactly: some runtimes compute in
    float32 only. The exception is bicubic weights before rounding; they are computed in float64 if
    the runtime supports it.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.side_px, self.short_px = preprocessing.image_size, preprocessing.short_side_px
        is_linear = preprocessing.interpolation == "bilinear"
        self.compute_weights = _linear_weights if is_linear else _cubic_weights

    def forward(self, images: Tensor) -> Tensor:
        """Return the centre crops of the resized images, N,S,S,3 uint8."""
        height, width = (_as_tensor(images.shape[axis], images) for axis in (1, 2))
        short = torch.minimum(height, width)
        rows, columns = (self._weights(images, axis, short) for axis in (1, 2))
        planes = images.permute(0, 3, 1, 2).to(torch.float32)
        narrowed = columns.weighted_sum(lambda weights: planes @ weights.T)
        crops = rows.weighted_sum(lambda weights: weights @ narrowed)
        return crops.to(torch.uint8).permute(0, 2, 3, 1)

    def _weights(self, images: Tensor, axis: int, short: Tensor) -> Weights:
        """Return the weights S,L of the L pixels along an axis for the S pixels of the crop.

        Weights are computed for the maximum length of a resized image, then cropped: the number of
        bits depends on the largest weight of the whole resized image.

        Args:
            images: N,H,W,3.
            axis: axis of `images`: 1 for rows, 2 for columns.
            short: length of the short side in pixels, as a scalar tensor.
        """
        length = _as_tensor(images.shape[axis], images)
        used = torch.minimum(length, MAX_ASPECT * short)
        first = torch.floor((length - used) / 2)  # the middle of an image beyond MAX_ASPECT
        resized = torch.maximum(
            _round_quotient(used * self.short_px, short), torch.full_like(used, self.short_px)
        )
        outputs = torch.arange(
            MAX_ASPECT * self.short_px, dtype=torch.float32, device=images.device
        )[:, None]
        pixels = torch.arange(images.shape[axis], dtype=torch.float32, device=images.device) - first
        inside = (pixels >= 0) & (pixels < used) & (outputs < resized)
        distance = (2 * pixels + 1) * resized - (2 * outputs + 1) * used
        weights = self.compute_weights(distance, 2 * torch.maximum(used, resized), inside)
        begin = torch.floor((resized - self.side_px) / 2).to(torch.int64)
        return weights.select_rows(begin + torch.arange(self.side_px, device=images.device))


@dataclass(frozen=True)
class Weights:
    """Fixed-point weights: `multiples` (S,L float32 integers) times `inverse`.

    `unit` is a power of two, and `inverse` is 1 / `unit`.
    """

    multiples: Tensor
    unit: Tensor
    inverse: Tensor

    def select_rows(self, rows: Tensor) -> Weights:
        """Return the weights of the rows with the given indices (int64)."""
        return Weights(self.multiples.index_select(0, rows), self.unit, self.inverse)

    def weighted_sum(self, multiply: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `multiply(weights)`, rounded and clamped to levels of 0..255, in float32.

        `multiply` is a linear map, applied to the high and to the low eight bits of the weights
        separately: each sum stays below 2 ** 24.
        """
        high = torch.floor(self.multiples / BYTE)
        low = multiply(self.multiples - BYTE * high)
        sums = multiply(high) + torch.floor(low / BYTE)
        return torch.clamp(
            torch.floor((sums + self.unit / (2 * BYTE)) * (self.inverse * BYTE)), 0, BYTE - 1
        )


def _as_tensor(size: int, like: Tensor) -> Tensor:
    """Return a size as a float32 scalar tensor, which an exported graph computes for each input."""
    return torch.ones((), dtype=torch.float32, device=like.device) * size


def _divide(dividend: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder of integers, exact even if a runtime's division is inexact."""
    quotient = torch.floor(dividend / divisor)
    rest = dividend - quotient * divisor
    correction = (rest >= divisor).to(rest.dtype) - (rest < 0).to(rest.dtype)
    return quotient + correction, rest - correction * divisor


def _round_quotient(dividend: Tensor, divisor: Tensor) -> Tensor:
    """Return the quotient rounded to the nearest integer, ties to even, as Python's `round`."""
    quotient, rest = _divide(dividend, divisor)
    _, is_odd = _divide(quotient, torch.full_like(quotient, 2))
    return quotient + (2 * rest + is_odd > divisor).to(rest.dtype)


def _linear_weights(distance: Tensor, reach: Tensor, inside: Tensor) -> Weights:
    """Return the normalised weights of the triangle filter, rounded half up.

    Args:
        distance: distances S,L between centres of input and output pixels, in integer units.
        reach: half the width of the filter, in the same units.
        inside: S,L bool, False outside of the image.
    """
    shares = torch.clamp(reach - distance.abs(), min=0.0) * inside
    total = shares.sum(1, keepdim=True).clamp(min=1.0)
    quotient, rest = torch.zeros_like(shares), shares
    for _ in range(DIGITS):
        digit, rest = _divide(BASE * rest, total)
        quotient = BASE * quotient + digit
    unit, inverse = _find_unit(quotient.max() / BASE**DIGITS)
    doubled = torch.floor(quotient * (2 / BASE**DIGITS) * unit)
    return Weights(torch.floor((doubled + 1) / 2), unit, inverse)


def _cubic_weights(distance: Tensor, reach: Tensor, inside: Tensor) -> Weights:
    """Return the normalised weights of the cubic filter, rounded half away from zero.

    Args:
        distance: distances S,L between centres of input and output pixels, in integer units.
        reach: a quarter of the width of the filter, in the same units.
        inside: S,L bool, False outside of the image.
    """
    far = distance.abs().to(torch.float64) / reach
    near = ((CUBIC + 2) * far - (CUBIC + 3)) * far * far + 1
    tail = (((far - 5) * far + 8) * far - 4) * CUBIC
    shares = torch.where(far < 1, near, torch.where(far < 2, tail, torch.zeros_like(far))) * inside
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
    unit, inverse = _find_unit(shares.max().to(torch.float32))
    multiples = torch.sign(shares) * torch.floor(shares.abs() * unit + 0.5)
    return Weights(multiples.to(torch.float32), unit, inverse)


def _find_unit(largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest power of two that keeps weights in 16 bits, and its inverse.

    Both are selected from tables: a power or a division may be inexact in some runtimes.
    """
    powers = [2.0**bits for bits in range(MAX_BITS + 1)]
    units, inverses = (
        torch.tensor(each, device=largest.device)
        for each in (powers, [1 / power for power in powers])
    )
    fits = torch.floor(largest * units + 0.5) < WEIGHT_LIMIT
    ones = torch.ones_like(units)
    return torch.where(fits, units, ones).max(), torch.where(fits, inverses, ones).min()
