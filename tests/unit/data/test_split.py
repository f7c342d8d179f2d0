from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from eyevsai.data.curation import Sample
from eyevsai.data.image_checks import ImageInfo
from eyevsai.data.image_folder import ImageFile
from eyevsai.data.split import split_items


def make_items(
    count: int, label: str = "a", split: str | None = None, start: int = 0, group_of: int = 1
) -> list[Sample]:
    """`count` images, each `group_of` neighbours of which show the same."""
    items = []
    for number in range(start, start + count):
        file = ImageFile(Path(f"{number}"), f"{label}/{number:05d}", label, split, 1, 1)
        group = hash((label, number // group_of))
        items.append(
            Sample(file, ImageInfo(f"{label}{number}", f"{label}{number // group_of}"), group)
        )
    return items


def by_name(items: list[Sample], seed: int = 0) -> dict[str, str]:
    return dict(
        zip((item.name for item in items), split_items(items, seed, 0.15, 0.15), strict=True)
    )


@given(st.integers(3, 400), st.integers(3, 400), st.integers(0, 5))
def test_each_class_is_shared_out_by_the_fractions(first: int, second: int, seed: int) -> None:
    items = make_items(first, "a") + make_items(second, "b")
    splits = split_items(items, seed, 0.15, 0.15)
    for label, count in (("a", first), ("b", second)):
        found = Counter(
            split for item, split in zip(items, splits, strict=True) if item.label == label
        )
        assert found["valid"] == found["test"] == max(1, round(0.15 * count))
        assert found["train"] >= 1


@given(st.integers(3, 200), st.integers(1, 40), st.integers(0, 3))
def test_adding_k_files_moves_at_most_2k_others(count: int, added: int, seed: int) -> None:
    before = by_name(make_items(count), seed)
    after = by_name(make_items(count + added), seed)
    assert sum(before[name] != after[name] for name in before) <= 2 * added


@given(st.integers(3, 60), st.integers(2, 5), st.integers(0, 3))
def test_a_group_of_duplicates_shares_one_split(groups: int, size: int, seed: int) -> None:
    items = make_items(groups * size, group_of=size)
    splits: dict[int, set[str]] = {}
    for item, split in zip(items, split_items(items, seed, 0.15, 0.15), strict=True):
        splits.setdefault(item.group, set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "valid", "test"}


def test_order_of_files_does_not_matter_and_the_seed_does() -> None:
    items = make_items(100)
    assert by_name(items) == by_name(items[::-1])
    assert by_name(items, seed=0) != by_name(items, seed=1)


def test_given_splits_are_kept_and_a_missing_one_is_taken_out_of_train() -> None:
    items = make_items(40, split="train") + make_items(10, split="test", start=40)
    splits = by_name(items)
    assert Counter(splits.values()) == {"train": 34, "valid": 6, "test": 10}
    assert all(splits[item.name] == "test" for item in items[40:])


def test_a_part_of_a_union_that_gives_splits_takes_none_from_the_others() -> None:
    given = make_items(40, "split", "train") + make_items(10, "split", "test", start=40)
    splits = by_name(given + make_items(40, "whole"))
    for label, counts in (
        ("split", {"train": 34, "valid": 6, "test": 10}),
        ("whole", {"train": 28, "valid": 6, "test": 6}),
    ):
        assert Counter(split for name, split in splits.items() if name.startswith(label)) == counts


def test_shares_are_counted_in_images_and_groups_kept_whole() -> None:
    burst = [replace(item, group=-1) for item in make_items(60)]
    for seed in range(20):
        splits = split_items(burst + make_items(40, start=60), seed, 0.15, 0.15)
        assert Counter(splits) == {"train": 70, "valid": 15, "test": 15}
        assert set(splits[:60]) == {"train"}


@given(st.lists(st.integers(1, 12), min_size=3, max_size=60), st.integers(0, 5))
def test_no_split_has_more_than_its_share_of_groups_of_any_size(
    sizes: list[int], seed: int
) -> None:
    items = [
        replace(item, group=number)
        for number, size in enumerate(sizes)
        for item in make_items(size, start=100 * number, group_of=size)
    ]
    found = Counter(split_items(items, seed, 0.15, 0.15))
    assert max(found["valid"], found["test"]) <= max(2 * round(0.15 * len(items)), *sizes)
    assert min(found["train"], found["valid"], found["test"]) >= 1


@given(st.integers(3, 60), st.integers(1, 9), st.integers(1, 10), st.integers(0, 3))
def test_added_images_move_few_groups(groups: int, size: int, added: int, seed: int) -> None:
    before = by_name(make_items(groups * size, group_of=size), seed)
    after = by_name(
        make_items(groups * size, group_of=size) + make_items(added, start=100_000), seed
    )
    assert sum(before[name] != after[name] for name in before) <= 2 * (added + 2 * size)
