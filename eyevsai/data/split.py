"""Who is trained on, who chooses, who judges."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from eyevsai.data.curation import Sample
from eyevsai.data.folder_layout import TEST, TRAIN, VALID


def split_items(
    items: Sequence[Sample], seed: int, valid_fraction: float, test_fraction: float
) -> list[str]:
    """The split of each item: `train`, `valid` or `test`, stratified by class, groups kept whole.

    Splits that the dataset gives are kept; a split it does not give is taken out of train. In a
    union each part is asked for itself: that one of them gives a test split takes none from the
    classes of the others. Each group is ranked in its class by a hash of (seed, content), which
    does not depend on the other groups. Test is taken from one end and valid from the other, group
    by group, as many images as their share: a group that has more images than are still to be taken
    is passed over. So a file that is added moves few others. Each split that is asked for gets at
    least one group of a class that has one to spare, the smallest if all have too many images.
    """
    given: dict[str, set[str | None]] = {}
    for item in items:
        given.setdefault(_part(item), set()).add(item.file.split)
    chosen = [item.file.split or TRAIN for item in items]
    groups: dict[int, list[int]] = {}
    for row, item in enumerate(items):
        if chosen[row] == TRAIN:
            groups.setdefault(item.group, []).append(row)
    classes: dict[str, list[list[int]]] = {}
    for rows in groups.values():
        classes.setdefault(items[rows[0]].label, []).append(rows)
    for members in classes.values():
        there = given[_part(items[members[0][0]])]
        ranked = sorted(members, key=lambda rows: _hash_order(seed, [items[row] for row in rows]))
        shares = {TEST: test_fraction, VALID: valid_fraction}
        asked = [name for name, fraction in shares.items() if name not in there and fraction > 0]
        for number, name in enumerate(asked, start=1):
            order = ranked if name == TEST else ranked[::-1]
            wanted = max(1, round(shares[name] * sum(map(len, members))))
            taken = _take_groups(order, wanted, spared=1 + len(asked) - number)
            first = {rows[0] for rows in taken}
            ranked = [rows for rows in ranked if rows[0] not in first]
            for row in (row for rows in taken for row in rows):
                chosen[row] = name
    return chosen


def _take_groups(groups: Sequence[list[int]], wanted: int, spared: int) -> list[list[int]]:
    """The first groups that together have at most `wanted` images, and one more if that comes
    closer.

    `spared` groups are left, if there are as many.
    """
    taken, left = list[list[int]](), wanted
    for rows in groups:
        if len(rows) <= left and len(taken) + spared < len(groups):
            taken.append(rows)
            left -= len(rows)
        if not left:
            return taken
    first = {rows[0] for rows in taken}
    closer = [rows for rows in groups if rows[0] not in first and len(rows) < 2 * left]
    if closer and len(taken) + spared < len(groups):
        taken.append(closer[0])
    if not taken and len(groups) > 1:
        taken.append(min(groups, key=len))
    return taken


def _part(item: Sample) -> str:
    """The folder of the union that an image lies in; no class lies in two."""
    return item.name.partition("/")[0]


def _hash_order(seed: int, members: Sequence[Sample]) -> str:
    content = min(item.record.pixels for item in members)
    return hashlib.sha256(f"{seed}/{content}".encode()).hexdigest()
