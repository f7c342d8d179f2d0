"""Random augmentation of training images: drawn for each image, applied to the whole batch at once.

Crop, flip and rotation are combined into one affine map of coordinates, so that each image is
resampled once. Brightness, contrast, saturation and normalisation are combined into one affine map
of colours, so that each pixel is multiplied once. Noise is a window of a field that all images of a
batch share. Only torchvision's policies are applied image by image.
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
    images: Tensor | Sequence[Tensor],
    settings: AugmentationSettings,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    device: torch.device,
    *,
    rows: slice = slice(None),
    size: int | None = None,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Return the augmented and normalised batch.

    Args:
        images: H,W,3 uint8 images of any sizes; one tensor N,H,W,3 of images of one size takes less
            time.
        settings: ranges of the random changes.
        preprocessing: image size, mean and standard deviation of the network's input.
        generator: source of the random numbers, on the CPU.
        device: device of the computation and of the result.
        rows: the images to return. The random numbers of an image do not depend on `rows`, so that
            several processes can compute one batch in parts.
        size: side S of the output; by default the image size of `preprocessing`.
        mirrored: whether to mirror each image, if `settings.flip`: N bool; drawn by default.

    Returns:
        N,3,S,S float32 with the N images of `rows`.
    """
    if settings.auto_augment != "none":
        images = _apply_policy(images, settings.auto_augment, generator)
    sizes = _sizes_of(images)
    frame = _stack(images, rows).to(device)  # N,H,W,3 uint8
    size = size or preprocessing.image_size
    transforms = _draw_transforms(sizes, preprocessing.image_size, settings, generator, mirrored)[
        rows
    ].to(device)
    grid = _build_grid(transforms, sizes[rows].to(device), frame.shape[1:3], size)
    planes = frame.permute(0, 3, 1, 2).to(torch.float32)
    batch = functional.grid_sample(
        planes, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    batch = _recolor(batch, preprocessing, _draw_factors(len(images), settings, generator)[rows])
    if settings.noise:
        limits = settings.noise / torch.tensor(preprocessing.std)
        _add_noise(batch, len(images), rows, limits, generator)
    if settings.random_erasing:
        batch.masked_fill_(
            _draw_rectangles(len(images), size, settings.random_erasing, generator)[rows].to(
                device
            ),
            0.0,
        )
    return batch


def _apply_policy(
    images: Tensor | Sequence[Tensor], policy: str, generator: torch.Generator
) -> list[Tensor]:
    """Return the images (H,W,3 uint8) after torchvision's policy for automatic augmentation.

    torchvision draws from the global generator: it is seeded from `generator` here, and restored.
    """
    from torchvision.transforms import v2

    transform = v2.TrivialAugmentWide() if policy == "trivial" else v2.RandAugment()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        return [transform(image.permute(2, 0, 1)).permute(1, 2, 0) for image in images]


def _draw_rectangles(count: int, size: int, prob: float, generator: torch.Generator) -> Tensor:
    """Return N,1,S,S bool masks of random erasing (Zhong et al. 2020).

    With probability `prob`, an image has one rectangle of 2 to 33 % of its area.
    """
    area = _uniform(count, 0.02, 0.33, generator) * size**2
    ratio = torch.exp(_uniform(count, -1, 1, generator) * math.log(3.3))
    height, width = (
        torch.sqrt(area / ratio).clamp(max=size),
        torch.sqrt(area * ratio).clamp(max=size),
    )
    y = torch.rand(count, generator=generator) * (size - height)
    x = torch.rand(count, generator=generator) * (size - width)
    has_rectangle = torch.rand(count, generator=generator) < prob
    centers = torch.arange(size) + 0.5
    rows = (centers >= y[:, None]) & (centers < (y + height)[:, None]) & has_rectangle[:, None]
    columns = (centers >= x[:, None]) & (centers < (x + width)[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _sizes_of(images: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the heights and widths of images, N,2 float32."""
    if isinstance(images, Tensor):
        return torch.tensor([images.shape[1:3]], dtype=torch.float32).expand(len(images), 2)
    return torch.tensor([image.shape[:2] for image in images], dtype=torch.float32)


def _stack(images: Tensor | Sequence[Tensor], rows: slice) -> Tensor:
    """Return the images of `rows` in one N,H,W,3 uint8 tensor, each in the top-left corner.

    H and W are the maxima over all images, not only those of `rows`. The rest is 0.
    """
    if isinstance(images, Tensor):
        return images[rows]
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    frame = torch.zeros((len(images[rows]), height, width, 3), dtype=torch.uint8)
    for target, image in zip(frame, images[rows], strict=True):
        target[: image.shape[0], : image.shape[1]] = image
    return frame


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _draw_transforms(
    sizes: Tensor,
    size: int,
    settings: AugmentationSettings,
    generator: torch.Generator,
    mirrored: Tensor | None,
) -> Tensor:
    """Return N,2,3 affine maps from the output square [-1,1] to pixel coordinates of each image.

    `sizes` (N,2) has the heights and widths in pixels. The crop has a random area, aspect ratio and
    position (Szegedy et al. 2015). With `crop_scale` 1 it is the centre square of `size` pixels, as
    in evaluation, shifted by up to `translate`.
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
        center_y = height / 2 + shift_y * (height / 2 - half_y)
        center_x = width / 2 + shift_x * (width / 2 - half_x)
    else:
        half_y = half_x = torch.full((count,), size / 2)
        # whole pixels before the crop: half a pixel would blur the image
        center_y, center_x = (torch.floor((side - size) / 2) + size / 2 for side in (height, width))
        # whole pixels: a crop of the size of the output is then not resampled
        far = settings.translate * torch.minimum(height, width)
        center_y, center_x = (
            center_y + torch.round(shift_y * far),
            center_x + torch.round(shift_x * far),
        )
    angle = _uniform(count, -1, 1, generator) * math.radians(settings.rotation)
    # drawn in any case: the later draws are then the same
    drawn = torch.rand(count, generator=generator) < 0.5
    is_mirrored = drawn if mirrored is None else mirrored
    mirror = torch.where(is_mirrored & settings.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack([cos * half_x * mirror, -sin * half_y, center_x], dim=1),
        torch.stack([sin * half_x * mirror, cos * half_y, center_y], dim=1),
    )
    return torch.stack(rows, dim=1)


def _build_grid(transforms: Tensor, sizes: Tensor, frame: torch.Size, size: int) -> Tensor:
    """Return N,S,S,2 sampling coordinates, in [-1,1] of the frame and clamped to each image.

    Args:
        transforms: N,2,3 affine maps to pixel coordinates.
        sizes: N,2 heights and widths of the images, in pixels.
        frame: height and width of the stacked images, in pixels.
        size: side S of the output, in pixels.
    """
    extent = torch.tensor(  # x, y
        [frame[1], frame[0]], dtype=transforms.dtype, device=transforms.device
    )
    theta = transforms * (2 / extent).view(1, 2, 1)
    theta[:, :, 2] -= 1
    grid = functional.affine_grid(theta, [len(transforms), 3, size, size], align_corners=False)
    # centre of the first pixel of the frame, and of the last pixel of each image
    first = (1 / extent - 1).view(1, 1, 1, 2)
    last = ((2 * sizes.flip(1) - 1) / extent - 1).view(-1, 1, 1, 2)
    return torch.clamp(grid, first, last)


def _draw_factors(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Return N,3 random factors for brightness, contrast and saturation."""
    spreads = (settings.brightness, settings.contrast, settings.saturation)
    return torch.stack(
        [_uniform(count, 1 - spread, 1 + spread, generator) for spread in spreads], dim=1
    )


def _recolor(batch: Tensor, preprocessing: Preprocessing, factors: Tensor) -> Tensor:
    """Return a batch after colour jitter and normalisation, applied as one affine map of colours.

    Args:
        batch: N,3,S,S float32 in 0..255.
        preprocessing: mean and standard deviation of the normalisation, for values in 0..1.
        factors: N,3 factors for brightness, contrast and saturation.
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


def _add_noise(
    batch: Tensor, count: int, rows: slice, limits: Tensor, generator: torch.Generator
) -> None:
    """Add Gaussian noise to a batch, in place (Rusak et al. 2020).

    The noise of an image is a window of one field, at a random position. For a batch of 64 images,
    this takes less than half of the time of a field for each image; windows of a batch can overlap.
    Like colours, the sums are not clipped.

    Args:
        batch: N,3,S,S float32, the images of `rows`.
        count: number of images of the whole batch.
        rows: rows of `batch` in the whole batch.
        limits: maximum standard deviation of each channel, 3 float32; that of an image is a random
            share of it.
        generator: source of the random numbers, on the CPU.
    """
    size = batch.shape[-1]
    deviations = torch.rand(count, generator=generator)[rows, None] * limits
    starts = torch.randint(0, size + 1, (count, 2), generator=generator)[rows].tolist()
    field = torch.randn(3, 2 * size, 2 * size, generator=generator).to(batch.device)
    windows = [field[:, y : y + size, x : x + size] for y, x in starts]
    batch.addcmul_(torch.stack(windows), deviations[:, :, None, None].to(batch.device))
