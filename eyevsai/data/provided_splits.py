"""Images that stand in two splits which the dataset gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eyevsai.data.folder_layout import TEST, TRAIN, VALID

if TYPE_CHECKING:
    from eyevsai.data.curation import Sample

SPLIT_PRIORITY = (TEST, VALID, TRAIN)  # the first of them that has an image keeps it
# images of a class of a given split, and their share, that may be near copies
MIN_NEAR, MAX_NEAR = (2, 0.1)


def drop_split_overlaps(items: Sequence[Sample]) -> tuple[list[Sample], list[Sample], list[str]]:
    """Part the images that stand in two given splits: those of the more careful split are kept, the
    others left out.

    Of near copies no more than `MAX_NEAR` of a class of a split are left out: more are frames of
    the same scenes, which a note says.

    Returns the images that are kept, those that are left out, and notes.
    """
    keeper, pixels = dict[int, int](), dict[int, set[str]]()
    for item in items:
        if item.file.split is not None:
            rank = SPLIT_PRIORITY.index(item.file.split)
            if rank < keeper.get(item.copy, len(SPLIT_PRIORITY)):
                keeper[item.copy], pixels[item.copy] = rank, set()
            if rank == keeper[item.copy]:
                pixels[item.copy].add(item.record.pixels)
    sizes = Counter((item.file.split, item.label) for item in items)
    near: dict[tuple[str | None, str], list[Sample]] = {}
    for item in items:
        if _is_second(item, keeper) and item.record.pixels not in pixels[item.copy]:
            near.setdefault((item.file.split, item.label), []).append(item)
    spared = {
        key: found
        for key, found in near.items()
        if len(found) > max(MIN_NEAR, MAX_NEAR * sizes[key])
    }
    stay = {item.name for found in spared.values() for item in found}
    left_out = [item for item in items if _is_second(item, keeper) and item.name not in stay]
    gone = {item.name for item in left_out}
    notes = []
    for (split, label), found in spared.items():
        notes.append(
            f"{len(found)} {split} images of {label} resemble images of another split, such as "
            f"{found[0].name}: they are too many to be copies and stay. If they are frames of "
            "the same scenes, test figures are too high"
        )
    return [item for item in items if item.name not in gone], left_out, notes


def _is_second(item: Sample, keeper: Mapping[int, int]) -> bool:
    """Return True if a more careful given split has a copy of an image."""
    return (
        item.file.split is not None and SPLIT_PRIORITY.index(item.file.split) != keeper[item.copy]
    )
