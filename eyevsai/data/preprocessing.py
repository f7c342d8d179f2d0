"""Preprocessing from pixels to network inputs, shared by cache, learner and export."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from eyevsai.data.decode import Depth
from eyevsai.data.settings import CROP_MARGIN

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_ASPECT = 2
VERSION = 3  # part of the pixel cache's key: increment it when any resized pixel changes


@dataclass(frozen=True)
class Preprocessing:
    """Resize of the short side, centre crop and normalisation; saved with the model."""

    image_size: int
    mean: tuple[float, ...] = field(default=IMAGENET_MEAN)
    std: tuple[float, ...] = field(default=IMAGENET_STD)
    interpolation: str = "bilinear"
    # range of images with more than 8 bits; None: range of each image's values, as in older models
    depth: Depth | None = None
    margin: float = CROP_MARGIN  # short side after `resize` / side of the centre crop

    @cached_property
    def short_side_px(self) -> int:
        """Short side of an image after `resize`, in pixels."""
        return math.ceil(self.margin * self.image_size)

    @property
    def center_crop_bounds(self) -> tuple[int, int]:
        """First and end index of the centre crop along a side of `short_side_px` pixels."""
        begin = (self.short_side_px - self.image_size) // 2
        return begin, begin + self.image_size

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values that JSON can represent; the inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """Return the preprocessing with the values of `to_json`.

        `depth` and `margin` may be missing.
        """
        mean, std = tuple(values["mean"]), tuple(values["std"])
        depth = values.get("depth")
        return cls(
            values["image_size"],
            mean,
            std,
            values["interpolation"],
            Depth(**depth) if depth else None,
            values.get("margin", CROP_MARGIN),
        )

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in pixels after `resize` of an image of `height` x `width`."""
        height, width = _limit_aspect(height, width)
        short = min(height, width)
        high, wide = (
            max(self.short_side_px, _round_quotient(side * self.short_side_px, short))
            for side in (height, width)
        )
        return high, wide

    def resize(self, images: Tensor) -> Tensor:
        """Resize N,H,W,3 uint8 of any size -> N,h,w,3 uint8 with short side `short_side_px`.

        The aspect ratio is kept up to 2:1; longer images are cropped to their middle first. The
        filter is antialiased, bilinear or bicubic, in torch's fixed-point arithmetic
        (docs/decisions/009-resize.md). Images that have the size already are returned unchanged.
        """
        images = crop_center(images, *_limit_aspect(*images.shape[1:3]))
        size = self.resized_shape(*images.shape[1:3])
        if size == images.shape[1:3]:
            return images
        planes = images.permute(0, 3, 1, 2)
        resized = functional.interpolate(
            planes, size, mode=self.interpolation, antialias=True, align_corners=False
        )
        return resized.permute(0, 2, 3, 1)

    def crop(self, images: Tensor) -> Tensor:
        """Resize and crop the centre, N,H,W,3 uint8 of any size -> N,S,S,3 uint8."""
        return crop_center(self.resize(images), self.image_size, self.image_size)

    def center_square(self, resized: Tensor) -> Tensor:
        """Crop resized images N,h,w,3 to squares N,s,s,3 with side s = `short_side_px`.

        The squares have the same centre crop as the resized images.
        """
        side, (margin, _) = self.short_side_px, self.center_crop_bounds
        y, x = ((length - self.image_size) // 2 - margin for length in resized.shape[1:3])
        return resized[:, y : y + side, x : x + side]

    def resize_to_square(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize one image and crop it to a square: H,W,3 of any size -> s,s,3.

        A square of this size is returned unchanged.
        """
        if image.shape[:2] == (self.short_side_px, self.short_side_px):
            return np.ascontiguousarray(image)
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
        return np.ascontiguousarray(self.center_square(self.resize(pixels))[0].numpy())

    def normalize(self, crops: Tensor) -> Tensor:
        """Normalise with `mean` and `std`, N,S,S,3 uint8 -> N,3,S,S float32."""
        scale, shift = (torch.tensor(each, device=crops.device) for each in self._scale_and_shift)
        return torch.addcmul(shift, crops.to(torch.float32), scale).permute(0, 3, 1, 2)

    @cached_property
    def _scale_and_shift(self) -> tuple[list[float], list[float]]:
        """Factors and summands of the normalisation, rounded to float32.

        They are numbers, because tensors that are created while a network is traced belong to it.
        """
        mean, std = (np.asarray(each, dtype=np.float32) for each in (self.mean, self.std))
        return (1 / (255 * std)).tolist(), (-mean / std).tolist()


def _limit_aspect(height: int, width: int) -> tuple[int, int]:
    """Return height and width with the long side at most `MAX_ASPECT` times the short one."""
    short = min(height, width)
    return min(height, MAX_ASPECT * short), min(width, MAX_ASPECT * short)


def _round_quotient(dividend: int, divisor: int) -> int:
    """Return the quotient of positive integers rounded to an integer, ties to even."""
    quotient, rest = divmod(dividend, divisor)
    return quotient + (2 * rest + quotient % 2 > divisor)


def crop_center(images: Tensor, height: int, width: int) -> Tensor:
    """Return the middle `height` x `width` pixels of N,H,W,3 images, as a view."""
    y, x = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, y : y + height, x : x + width]
