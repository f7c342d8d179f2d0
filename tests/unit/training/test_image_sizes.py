"""Sizes of training images under progressive resizing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.training.image_sizes import ImageSizes


def test_images_grow_to_their_full_size() -> None:
    sizes = ImageSizes(96, 0.5)
    assert [sizes.size_at(share / 10) for share in range(11)] == [
        *(48, 48, 64, 64, 80, 80, 80),
        *(96, 96, 96, 96),
    ]


def test_images_of_a_size_that_is_no_multiple_end_in_full() -> None:
    assert ImageSizes(100, 0.9).size_at(0.74) == 96
    assert ImageSizes(100, 0.9).size_at(0.75) == 100
    assert ImageSizes(100).size_at(0.0) == 100


@given(
    image_size=st.integers(32, 512),
    initial_scale=st.floats(0.25, 1.0),
    shares=st.lists(st.floats(0, 1), min_size=2).map(sorted),
)
def test_sizes_rise_within_the_limits(
    image_size: int, initial_scale: float, shares: list[float]
) -> None:
    sizes = [ImageSizes(image_size, initial_scale).size_at(share) for share in shares]
    assert sizes == sorted(sizes)
    assert min(sizes) >= 32
    assert max(sizes) <= image_size


def test_the_mean_cost_is_that_of_the_areas() -> None:
    assert ImageSizes(96).mean_cost == 1
    sizes = ImageSizes(128, 0.5)
    areas = [sizes.size_at(step / 300) ** 2 for step in range(300)]
    assert sizes.mean_cost == pytest.approx(sum(areas) / 300 / 128**2, rel=0.02)
