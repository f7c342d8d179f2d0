"""Random changes to a batch of training images: each image draws its own, the batch moves as one.

Crop, mirror and rotation are one affine map of places, so the image is sampled once. Brightness,
contrast, saturation and the normalisation are one affine map of colours, so it is multiplied once.
Only the policies of torchvision go image by image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import AugmentationSettings

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def augment(
    images: Sequence[Tensor],
    settings: AugmentationSettings,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    device: torch.device,
    *,
    rows: slice = slice(None),
) -> Tensor:
    """Images H,W,3 uint8 of any sizes -> a normalised batch N,3,S,S float32 on `device`; of `rows`
    alone, if given.

    What is drawn for an image is the same whichever rows are asked for.
    """
    if settings.auto_augment != "none":
        images = _apply_policy(images, settings.auto_augment, generator)
    sizes = torch.tensor([image.shape[:2] for image in images], dtype=torch.float32)  # N,2
    frame = _stack(images, rows).to(device)  # N,H,W,3 uint8
    size = preprocessing.image_size
    places = _draw_places(sizes, size, settings, generator)[rows].to(device)
    grid = _draw_grid(places, sizes[rows].to(device), frame.shape[1:3], size)
    planes = frame.permute(0, 3, 1, 2).to(torch.float32)
    batch = functional.grid_sample(
        planes, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    batch = _recolor(batch, preprocessing, _draw_factors(len(images), settings, generator)[rows])
    if settings.random_erasing:
        batch.masked_fill_(
            _draw_rectangles(len(images), size, settings.random_erasing, generator)[rows].to(
                device
            ),
            0.0,
        )
    return batch


def _apply_policy(
    images: Sequence[Tensor], policy: str, generator: torch.Generator
) -> list[Tensor]:
    """torchvision's policy on each image; it draws from the global generator, which is put back."""
    from torchvision.transforms import v2

    transform = v2.TrivialAugmentWide() if policy == "trivial" else v2.RandAugment()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        return [transform(image.permute(2, 0, 1)).permute(1, 2, 0) for image in images]


def _draw_rectangles(count: int, size: int, share: float, generator: torch.Generator) -> Tensor:
    """N,1,S,S bool: of a `share` of the images one rectangle of 2 to 33 % of the area, as in Zhong
    et al. 2020.
    """
    area = _uniform(count, 0.02, 0.33, generator) * size**2
    ratio = torch.exp(_uniform(count, -1, 1, generator) * math.log(3.3))
    height, width = (
        torch.sqrt(area / ratio).clamp(max=size),
        torch.sqrt(area * ratio).clamp(max=size),
    )
    top = torch.rand(count, generator=generator) * (size - height)
    left = torch.rand(count, generator=generator) * (size - width)
    chosen = torch.rand(count, generator=generator) < share
    places = torch.arange(size) + 0.5
    rows = (places >= top[:, None]) & (places < (top + height)[:, None]) & chosen[:, None]
    columns = (places >= left[:, None]) & (places < (left + width)[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _stack(images: Sequence[Tensor], rows: slice) -> Tensor:
    """Some images in the top left corners of one N,H,W,3 tensor that is as large as the largest of
    all.
    """
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    frame = torch.zeros((len(images[rows]), height, width, 3), dtype=torch.uint8)
    for place, image in zip(frame, images[rows], strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return frame


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _draw_places(
    sizes: Tensor, size: int, settings: AugmentationSettings, generator: torch.Generator
) -> Tensor:
    """N,2,3 affine maps from the output square [-1,1] to places in pixels of each image.

    The crop follows Szegedy et al. 2015: a random share of the area, a random aspect ratio and a
    random place. Without crops it is the centre square that evaluation sees.
    """
    count = len(sizes)
    height, width = sizes.unbind(1)
    ratio = torch.exp(_uniform(count, -1, 1, generator) * math.log(settings.crop_ratio))
    area = _uniform(count, settings.crop_scale, 1, generator)
    shift_y, shift_x = _uniform(count, -1, 1, generator), _uniform(count, -1, 1, generator)
    if settings.crop_scale < 1:
        short = torch.minimum(height, width)
        half_y = torch.minimum(short * torch.sqrt(area / ratio), height) / 2
        half_x = torch.minimum(short * torch.sqrt(area * ratio), width) / 2
    else:
        half_y = half_x = torch.full((count,), size / 2)
        shift_y = shift_x = torch.zeros(count)
    center_y = height / 2 + shift_y * (height / 2 - half_y)
    center_x = width / 2 + shift_x * (width / 2 - half_x)
    angle = _uniform(count, -1, 1, generator) * math.radians(settings.rotation)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5 * settings.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack([cos * half_x * mirror, -sin * half_y, center_x], dim=1),
        torch.stack([sin * half_x * mirror, cos * half_y, center_y], dim=1),
    )
    return torch.stack(rows, dim=1)


def _draw_grid(places: Tensor, sizes: Tensor, frame: torch.Size, size: int) -> Tensor:
    """N,S,S,2 places to sample, in the [-1,1] of the frame and never outside the image that lies in
    it.
    """
    extent = torch.tensor([frame[1], frame[0]], dtype=places.dtype, device=places.device)  # x, y
    scaled = places * (2 / extent).view(1, 2, 1)
    scaled[:, :, 2] -= 1
    grid = functional.affine_grid(scaled, [len(places), 3, size, size], align_corners=False)
    # the centre of the first pixel, and that of each image's last one
    first = (1 / extent - 1).view(1, 1, 1, 2)
    last = ((2 * sizes.flip(1) - 1) / extent - 1).view(-1, 1, 1, 2)
    return torch.clamp(grid, first, last)


def _draw_factors(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """N,3 factors of brightness, contrast and saturation."""
    spreads = (settings.brightness, settings.contrast, settings.saturation)
    return torch.stack(
        [_uniform(count, 1 - spread, 1 + spread, generator) for spread in spreads], dim=1
    )


def _recolor(batch: Tensor, preprocessing: Preprocessing, factors: Tensor) -> Tensor:
    """Colour jitter by N,3 factors and normalisation of N,3,S,S float32 in 0..255, as one affine
    map of colours.
    """
    device = batch.device
    brightness, contrast, saturation = factors.to(device)[:, :, None, None].unbind(1)
    grey = torch.tensor(GREY, device=device)
    mixed = saturation * torch.eye(3, device=device) + (1 - saturation) * grey.expand(3, 3)
    mean_grey = (batch.mean(dim=(2, 3)) @ grey).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1)
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1)
    matrix = brightness * contrast * mixed / (255 * std)
    offset = (brightness * (1 - contrast) * mean_grey / 255 - mean) / std
    return torch.baddbmm(offset, matrix, batch.flatten(2)).view_as(batch)
