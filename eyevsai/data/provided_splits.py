"""Removal of duplicates between the splits that a dataset provides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eyevsai.data.folder_layout import TEST, TRAIN, VALID

if TYPE_CHECKING:
    from eyevsai.data.curation import Sample

SPLIT_PRIORITY = (TEST, VALID, TRAIN)  # a duplicate is kept in the first of its splits
# Near-duplicates that are left out of a class of a provided split: up to this number, or this
# fraction of the class if that is more.
MIN_NEAR, MAX_NEAR = (2, 0.1)


def drop_split_overlaps(items: Sequence[Sample]) -> tuple[list[Sample], list[Sample], list[str]]:
    """Leave out images whose duplicate is in another provided split of higher priority.

    Near-duplicates of a class of a split are all kept if they exceed `MIN_NEAR` images and the
    fraction `MAX_NEAR`: so many are rather frames of the same scenes, and a note reports them.
    Exact duplicates and images without a provided split are not affected by this limit.

    Returns:
        The images that are kept, those that are left out, and the notes.
    """
    best_rank, pixels = dict[int, int](), dict[int, set[str]]()
    for item in items:
        if item.file.split is not None:
            rank = SPLIT_PRIORITY.index(item.file.split)
            if rank < best_rank.get(item.copy, len(SPLIT_PRIORITY)):
                best_rank[item.copy], pixels[item.copy] = rank, set()
            if rank == best_rank[item.copy]:
                pixels[item.copy].add(item.record.pixels)
    sizes = Counter((item.file.split, item.label) for item in items)
    near: dict[tuple[str | None, str], list[Sample]] = {}
    for item in items:
        if _is_overlapping(item, best_rank) and item.record.pixels not in pixels[item.copy]:
            near.setdefault((item.file.split, item.label), []).append(item)
    spared = {
        key: members
        for key, members in near.items()
        if len(members) > max(MIN_NEAR, MAX_NEAR * sizes[key])
    }
    spared_names = {item.name for members in spared.values() for item in members}
    left_out = [
        item for item in items if _is_overlapping(item, best_rank) and item.name not in spared_names
    ]
    left_out_names = {item.name for item in left_out}
    notes = []
    for (split, label), members in spared.items():
        notes.append(
            f"{len(members)} {split} images of {label} resemble images of another split, such as "
            f"{members[0].name}: they are too many to be copies and are kept. If they are frames "
            "of the same scenes, test metrics are too high"
        )
    return [item for item in items if item.name not in left_out_names], left_out, notes


def _is_overlapping(item: Sample, best_rank: Mapping[int, int]) -> bool:
    """Return True if a provided split of higher priority has a duplicate of the image.

    `best_rank` is the smallest index in `SPLIT_PRIORITY` among the images of each `copy`.
    """
    return (
        item.file.split is not None
        and SPLIT_PRIORITY.index(item.file.split) != best_rank[item.copy]
    )
