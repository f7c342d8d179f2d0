from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as reference

from eyevsai.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (1, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(32, 64))
def test_the_short_side_is_fixed_and_a_second_resize_changes_nothing(height: int, width: int, size: int) -> None:
    preprocessing = Preprocessing(size)
    once = preprocessing.resize(image(height, width))
    assert min(once.shape[1:3]) == preprocessing.short_side_px == math.ceil(1.15 * size)
    assert max(once.shape[1:3]) <= 2 * preprocessing.short_side_px
    assert torch.equal(preprocessing.resize(once), once)
    assert preprocessing.crop(once).shape == (1, size, size, 3)


@pytest.mark.parametrize(("height", "width"), [(120, 160), (37, 50), (500, 333)])
def test_resize_is_torchvisions_antialiased_bilinear(height: int, width: int) -> None:
    source = image(height, width)
    resized = Preprocessing(64).resize(source)
    planes = source.permute(0, 3, 1, 2)
    assert torch.equal(resized.permute(0, 3, 1, 2), reference.resize(planes, list(resized.shape[1:3]), antialias=True))
    in_float = reference.resize(planes.float(), list(resized.shape[1:3]), antialias=True).round().clamp(0, 255)
    assert (resized.permute(0, 3, 1, 2).float() - in_float).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(120, 160), (37, 50), (500, 333), (1000, 1900)])
def test_resize_can_be_computed_exactly_as_two_matrix_products(height: int, width: int) -> None:
    """What makes an exported graph say the same to the bit: integers, whatever adds them up."""
    source = image(height, width)
    resized = Preprocessing(64).resize(source)
    planes = source.permute(0, 3, 1, 2).double()
    rows, columns = fixed_point_weights(height, resized.shape[1]), fixed_point_weights(width, resized.shape[2])
    across = (planes @ columns.T + 0.5).floor().clamp(0, 255)
    assert torch.equal((rows @ across + 0.5).floor().clamp(0, 255).byte().permute(0, 2, 3, 1), resized)


def fixed_point_weights(before: int, after: int) -> torch.Tensor:
    """The triangle filter from `before` to `after` pixels, in the 16-bit numbers that torch takes for uint8."""
    scale = before / after
    reach = max(scale, 1.0)
    centers = (torch.arange(after, dtype=torch.float64)[:, None] + 0.5) * scale
    distance = (torch.arange(before, dtype=torch.float64) + 0.5 - centers) / reach
    weights = (1 - distance.abs()).clamp(min=0)
    weights /= weights.sum(1, keepdim=True)
    bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + weights.max().item() * 2 ** (bits + 1)) >= 2**15)
    return (weights * 2**bits + 0.5).floor() / 2**bits


def test_normalize_is_torchvisions() -> None:
    crops = image(64, 64)
    expected = reference.normalize(crops.permute(0, 3, 1, 2) / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(Preprocessing(64).normalize(crops), expected, rtol=0, atol=1e-5)


def test_json_round_trip() -> None:
    preprocessing = Preprocessing(96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
