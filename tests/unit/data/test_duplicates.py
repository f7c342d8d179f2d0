from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from benchmarks.similar import SIMILAR_SETS, copies, count_false, describe, draw_camera, find
from eyevsai.data.duplicates import (
    MAX_COPIES,
    SIDE,
    DuplicateGroups,
    Thumbnail,
    find_candidates,
    find_duplicates,
    make_thumbnail,
)
from eyevsai.data.image_checks import ImageInfo
from tests.conftest import draw_scene

Described = tuple[str, ImageInfo, Thumbnail]


def described(images: Sequence[Image.Image], labels: str | Sequence[str] = "a") -> list[Described]:
    return [
        describe(label, np.asarray(image))
        for label, image in zip([*labels] * len(images), images, strict=False)
    ]


def with_patch(image: Image.Image, levels: int) -> Image.Image:
    """Add `levels` to a patch of 16 x 16 pixels."""
    pixels = np.asarray(image).astype(int)
    pixels[32:48, 48:64] += levels
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def grouped(found: DuplicateGroups) -> list[int]:
    """Return the sizes of groups with more than one member."""
    return sorted(size for size in np.bincount(found.groups) if size > 1)


@pytest.mark.parametrize("count", [60, 120])
@pytest.mark.parametrize("draw", SIMILAR_SETS.values(), ids=SIMILAR_SETS)
def test_similar_images_that_are_no_copies_are_not_grouped(
    draw: Callable[..., object], count: int
) -> None:
    images = [describe(label, picture) for label, picture in draw(count=count)]  # type: ignore[attr-defined]
    found, _ = find(images)
    assert count_false(images, found) == 0
    assert found.conflicts == []


@pytest.mark.requirement(9)
def test_copies_are_found_and_strangers_are_not() -> None:
    originals = [draw_scene(seed) for seed in range(120)]
    found, _ = find(
        described(originals + [copy for image in originals[:20] for copy in copies(image)])
    )
    matches = [
        found.groups[120 + 6 * index + copy] == index for index in range(20) for copy in range(6)
    ]
    assert np.mean(matches) >= 0.95
    assert len(set(found.groups[:120])) == 120
    assert found.sequences == found.conflicts == []


def test_copies_are_found_beside_a_sequence() -> None:
    frames = [describe(label, picture) for label, picture in draw_camera(60)]
    pictures = [draw_scene(seed) for seed in range(10)]
    found, _ = find(
        frames + described([copy for picture in pictures for copy in (picture, copies(picture)[0])])
    )
    assert found.groups == [*range(60), *(index for index in range(60, 80, 2) for _ in range(2))]
    assert found.sequences == [list(range(60))]


def test_a_copy_is_found_in_other_light_and_not_in_other_colours() -> None:
    picture = draw_scene(0)
    darker = Image.fromarray((np.asarray(picture) * 0.8 + 10).astype(np.uint8))
    turned = Image.fromarray(np.asarray(picture)[..., [1, 2, 0]])
    warmer = Image.fromarray((np.asarray(picture) * [1.0, 0.8, 0.6]).astype(np.uint8))
    found, _ = find(described([picture, darker, turned, warmer]))
    assert found.groups == [0, 0, 2, 3]


@pytest.mark.parametrize("levels", list(permutations([0, 12, 24])))
def test_copies_are_not_chained(levels: tuple[int, ...]) -> None:
    found, _ = find(described([with_patch(draw_scene(0), level) for level in levels]))
    assert grouped(found) == [2]
    first, last = levels.index(0), levels.index(24)
    assert found.groups[first] != found.groups[last]


def test_a_small_change_in_one_place_is_no_copy() -> None:
    found, _ = find(described([draw_scene(0), with_patch(draw_scene(0), 40)]))
    assert found.groups == [0, 1]


@pytest.mark.parametrize("step", [1, 2])
def test_a_moved_or_enlarged_picture_is_no_copy(step: int) -> None:
    large = draw_scene(0, 160)
    boxes = [(0, 0, 128, 128), (step, 0, 128 + step, 128), (step, step, 128 - step, 128 - step)]
    found, _ = find(described([large.resize((128, 128), 2, box) for box in boxes]))
    assert found.groups == [0, 1, 2]


def test_near_duplicates_of_two_classes_are_reported_and_not_grouped() -> None:
    picture = draw_scene(0)
    images = described([draw_scene(1), picture, *copies(picture)[:2]], ["cat", "cat", "dog", "cat"])
    found, _ = find(images)
    assert found.groups == [0, 1, 2, 1]
    assert found.conflicts == [(1, 2), (2, 3)]


def test_equal_pixels_are_grouped_across_classes() -> None:
    picture = draw_scene(0)
    images = described([picture, picture, copies(picture)[0]], ["cat", "dog", "cat"])
    found, _ = find(images)
    assert found.groups == [0, 0, 2]  # a group of cats and dogs takes in no near-duplicate
    assert found.conflicts == [(1, 2)]


@pytest.mark.parametrize("mode", ["exact", "near"])
def test_small_images_are_grouped_by_pixels_only(mode: str) -> None:
    small = [draw_scene(seed).resize((16, 16)) for seed in (0, 1, 0)]
    images = described([*small, Image.fromarray(np.asarray(small[0]) ^ 1)])
    found, _ = find(images, mode)
    assert found == DuplicateGroups([0, 1, 0, 3], [], [])


def test_modes() -> None:
    picture = draw_scene(0)
    images = described([picture, picture, copies(picture)[0]])
    assert find(images, "off")[0].groups == [0, 1, 2]
    assert find(images, "exact")[0].groups == [0, 0, 2]
    assert find(images, "near")[0].groups == [0, 0, 0]
    with pytest.raises(ValueError, match="Use off, exact or near"):
        find(images, "fuzzy")


def test_a_sequence_is_reported_with_the_equal_images_in_it() -> None:
    frames = [describe(label, picture) for label, picture in draw_camera(MAX_COPIES + 1)]
    found, _ = find([*frames, frames[3]])
    assert found.sequences == [list(range(MAX_COPIES + 2))]
    assert grouped(found) == [2]
    assert found.groups[-1] == 3
    assert find(frames[:-1])[0].sequences == []


def test_thumbnails_are_made_once_and_for_candidates_only() -> None:
    picture = draw_scene(0)
    images = described([draw_scene(1), picture, picture, *copies(picture), draw_scene(2)])
    labels, records, thumbnails = zip(*images, strict=True)
    calls: list[int] = []
    find_duplicates(records, labels, lambda index: calls.append(index) or thumbnails[index])  # type: ignore[func-returns-value]
    assert calls == find_candidates(records) == [1, *range(3, 9)]


@pytest.mark.parametrize("count", [0, 1])
def test_few_images(count: int) -> None:
    records = [image[1] for image in described([draw_scene(0)] * count)]
    assert find_candidates(records) == []
    assert find_duplicates(
        records, ["a"] * count, lambda index: make_thumbnail(np.asarray(draw_scene(0)))
    ).groups == [*range(count)]


@pytest.mark.parametrize("size", [(32, 32), (500, 40), (64, 64)])
def test_a_thumbnail_has_one_size(size: tuple[int, int]) -> None:
    thumbnail = make_thumbnail(np.zeros((*size, 3), np.uint8))
    assert thumbnail.shape == (SIDE, SIDE, 3)
    assert thumbnail.dtype == np.uint8
