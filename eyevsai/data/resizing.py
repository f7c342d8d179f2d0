"""`Preprocessing.crop` as two matrix products, for graphs that leave torch: the same pixels from images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eyevsai.data.preprocessing import MAX_ASPECT, Preprocessing

BITS = 22  # the most that torch keeps of a weight
LARGEST = 2**15  # what a 16-bit weight stays below
CUBIC = -0.5  # the sharpness of torch's antialiased bicubic filter (Keys 1981)


class Resizing(nn.Module):
    """N,H,W,3 uint8 of any size -> N,S,S,3 uint8; see docs/decisions/009-resize.md.

    torch's fixed-point weights are multiples of a power of two, so float64 adds them up exactly, in any order. float32
    would not where an image is made more than four times smaller.
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
        across = _round(images.permute(0, 3, 1, 2).to(torch.float64) @ columns.T)
        return _round(rows @ across).to(torch.uint8).permute(0, 2, 3, 1)

    def _weights(self, images: Tensor, axis: int, short: Tensor) -> Tensor:
        """S,L float64: what each of L pixels along an axis of the image gives to each of the crop.

        Rows of the whole resized image are computed, up to the most that it can have: the largest weight of all decides
        how many bits are kept.
        """
        length = _number(images.shape[axis], images)
        used = torch.minimum(length, MAX_ASPECT * short)
        first = torch.floor((length - used) / 2)  # of an image that is too long, the middle
        after = torch.maximum(torch.round(used * (self.short_px / short)), torch.full_like(used, self.short_px))
        scale = used / after
        reach = torch.clamp(scale, min=1.0)
        places = torch.arange(MAX_ASPECT * self.short_px, dtype=torch.float64, device=images.device)
        pixels = torch.arange(images.shape[axis], dtype=torch.float64, device=images.device) - first
        distance = (pixels + 0.5 - (places[:, None] + 0.5) * scale) / reach
        inside = (pixels >= 0) & (pixels < used) & (places < after)[:, None]
        weights = self.weigh(distance) * inside
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        unit = _unit(weights.max())
        weights = torch.sign(weights) * torch.floor(weights.abs() / unit + 0.5) * unit
        begin = torch.floor((after - self.side_px) / 2).to(torch.int64)
        return weights.index_select(0, begin + torch.arange(self.side_px, device=images.device))


def _number(size: int, like: Tensor) -> Tensor:
    """A size as a tensor, so that a graph computes it anew for each image."""
    return torch.ones((), dtype=torch.float64, device=like.device) * size


def _linear(distance: Tensor) -> Tensor:
    return torch.clamp(1 - distance.abs(), min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    far = distance.abs()
    near = ((CUBIC + 2) * far - (CUBIC + 3)) * far * far + 1
    tail = (((far - 5) * far + 8) * far - 4) * CUBIC
    return torch.where(far < 1, near, torch.where(far < 2, tail, torch.zeros_like(far)))


def _unit(largest: Tensor) -> Tensor:
    """2 ** -bits, for as many bits as keep the largest weight in 16."""
    bits = torch.arange(BITS + 1, dtype=torch.float64, device=largest.device)
    fits = torch.floor(largest * 2.0**bits + 0.5) < LARGEST
    return 2.0 ** -torch.where(fits, bits, torch.zeros_like(bits)).max()


def _round(levels: Tensor) -> Tensor:
    return torch.clamp(torch.floor(levels + 0.5), 0, 255)
