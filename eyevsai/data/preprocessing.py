"""One way from pixels to what a network sees: in the cache, in the learner and in an export."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from eyevsai.data.decode import Depth

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 1.15  # the short side is kept this much longer than the crop, as room for random crops
MAX_ASPECT = 2
VERSION = 3  # goes into the key of the pixel cache: raise it when any resized pixel changes


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, cut out the centre, normalise; declared once and saved with the
    model.
    """

    image_size: int
    mean: tuple[float, ...] = field(default=IMAGENET_MEAN)
    std: tuple[float, ...] = field(default=IMAGENET_STD)
    interpolation: str = "bilinear"
    # of images with more than 8 bits; None: each by its own values, as older models do
    depth: Depth | None = None

    @property
    def short_side_px(self) -> int:
        """The short side of an image after `resize`."""
        return math.ceil(MARGIN * self.image_size)

    @property
    def center_crop_bounds(self) -> tuple[int, int]:
        """Where the crop begins and ends on both sides of a square of `short_side_px`."""
        begin = (self.short_side_px - self.image_size) // 2
        return begin, begin + self.image_size

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_json`."""
        mean, std = tuple(values["mean"]), tuple(values["std"])
        depth = values.get("depth")
        return cls(
            values["image_size"],
            mean,
            std,
            values["interpolation"],
            Depth(**depth) if depth else None,
        )

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that `resize` gives to an image of `height` x `width`."""
        height, width = _within_aspect(height, width)
        resized = (
            round(Fraction(side * self.short_side_px, min(height, width)))
            for side in (height, width)
        )
        high, wide = (max(self.short_side_px, side) for side in resized)
        return high, wide

    def resize(self, images: Tensor) -> Tensor:
        """N,H,W,3 uint8 of any size -> N,h,w,3 uint8 with short side `short_side_px`.

        Aspect is kept up to 2:1; of a longer image the middle is taken. Antialiased, bilinear or
        bicubic, in torch's fixed-point arithmetic (docs/decisions/009-resize.md). An image that has
        the size already comes back unchanged.
        """
        images = crop_center(images, *_within_aspect(*images.shape[1:3]))
        size = self.resized_shape(*images.shape[1:3])
        if size == images.shape[1:3]:
            return images
        planes = images.permute(0, 3, 1, 2)
        resized = functional.interpolate(
            planes, size, mode=self.interpolation, antialias=True, align_corners=False
        )
        return resized.permute(0, 2, 3, 1)

    def crop(self, images: Tensor) -> Tensor:
        """N,H,W,3 uint8 of any size -> N,S,S,3 uint8: resized, then the centre."""
        return crop_center(self.resize(images), self.image_size, self.image_size)

    def center_square(self, resized: Tensor) -> Tensor:
        """N,h,w,3 as `resize` gives them -> N,s,s,3 with s the short side: of one size, and of the
        same `crop`.
        """
        side, (margin, _) = self.short_side_px, self.center_crop_bounds
        top, left = ((length - self.image_size) // 2 - margin for length in resized.shape[1:3])
        return resized[:, top : top + side, left : left + side]

    def resize_to_square(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """H,W,3 of any size -> s,s,3: one image, resized and squared."""
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
        return np.ascontiguousarray(self.center_square(self.resize(pixels))[0].numpy())

    def normalize(self, crops: Tensor) -> Tensor:
        """N,S,S,3 uint8 -> N,3,S,S float32 with the declared mean and standard deviation."""
        scale = 1 / (255 * torch.tensor(self.std, device=crops.device))
        shift = -torch.tensor(self.mean, device=crops.device) / torch.tensor(
            self.std, device=crops.device
        )
        return torch.addcmul(shift, crops.to(torch.float32), scale).permute(0, 3, 1, 2)


def _within_aspect(height: int, width: int) -> tuple[int, int]:
    short = min(height, width)
    return min(height, MAX_ASPECT * short), min(width, MAX_ASPECT * short)


def crop_center(images: Tensor, height: int, width: int) -> Tensor:
    """The middle `height` x `width` of N,H,W,3 images, as a view."""
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]
