"""Split of samples into train, valid and test, stratified by class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from eyevsai.data.curation import Sample
from eyevsai.data.folder_layout import TEST, TRAIN, VALID


def split_items(
    items: Sequence[Sample], seed: int, valid_fraction: float, test_fraction: float
) -> list[str]:
    """Return the split of each item, `train`, `valid` or `test`. Groups are never divided.

    Splits that the dataset provides are kept; a missing split is taken from train. The parts of a
    union are independent: a test split of one part does not affect the classes of the others.

    In each class, groups are ordered by a hash of (seed, content), which does not depend on other
    groups. Test is taken from the start and valid from the end, group by group: a group with more
    images than are still needed is skipped. So an added file changes the split of few others. Each
    split with a fraction above 0 has at least one group of a class with enough groups, the smallest
    if all are too large.

    Args:
        items: samples of the dataset.
        seed: seed of the order.
        valid_fraction: fraction of the images of each class that are not in a provided split of
            valid or test.
        test_fraction: likewise, for test.
    """
    splits_of_part: dict[str, set[str | None]] = {}
    for item in items:
        splits_of_part.setdefault(_part_name(item), set()).add(item.file.split)
    splits = [item.file.split or TRAIN for item in items]
    groups: dict[int, list[int]] = {}
    for row, item in enumerate(items):
        if splits[row] == TRAIN:
            groups.setdefault(item.group, []).append(row)
    classes: dict[str, list[list[int]]] = {}
    for rows in groups.values():
        classes.setdefault(items[rows[0]].label, []).append(rows)
    for members in classes.values():
        provided = splits_of_part[_part_name(items[members[0][0]])]
        ranked = sorted(members, key=lambda rows: _order_key(seed, [items[row] for row in rows]))
        shares = {TEST: test_fraction, VALID: valid_fraction}
        missing = [
            name for name, fraction in shares.items() if name not in provided and fraction > 0
        ]
        for number, name in enumerate(missing, start=1):
            order = ranked if name == TEST else ranked[::-1]
            count = max(1, round(shares[name] * sum(map(len, members))))
            selected = _select_groups(order, count, min_rest=1 + len(missing) - number)
            first_rows = {rows[0] for rows in selected}
            ranked = [rows for rows in ranked if rows[0] not in first_rows]
            for row in (row for rows in selected for row in rows):
                splits[row] = name
    return splits


def _select_groups(groups: Sequence[list[int]], count: int, min_rest: int) -> list[list[int]]:
    """Return the first groups with at most `count` images in total, skipping larger ones.

    One more group is added if the total is then closer to `count`. At least `min_rest` groups are
    not selected. If this selects none of two or more groups, return the smallest group.

    Args:
        groups: indices of the images of each group, in order of preference.
        count: target number of images, at least 1.
        min_rest: number of groups to leave for other splits.
    """
    selected, remaining = list[list[int]](), count
    for rows in groups:
        if len(rows) <= remaining and len(selected) + min_rest < len(groups):
            selected.append(rows)
            remaining -= len(rows)
        if not remaining:
            return selected
    first_rows = {rows[0] for rows in selected}
    closer = [rows for rows in groups if rows[0] not in first_rows and len(rows) < 2 * remaining]
    if closer and len(selected) + min_rest < len(groups):
        selected.append(closer[0])
    if not selected and len(groups) > 1:
        selected.append(min(groups, key=len))
    return selected


def _part_name(item: Sample) -> str:
    """Return the part of the dataset with the image; a class is in one part only."""
    return item.name.partition("/")[0]


def _order_key(seed: int, members: Sequence[Sample]) -> str:
    """Return the sort key of a group, which depends on the seed and its smallest content hash."""
    content = min(item.record.pixels for item in members)
    return hashlib.sha256(f"{seed}/{content}".encode()).hexdigest()
