"""Who is trained on, who chooses, who judges."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from eyevsai.data.inspection import Item

TRAIN, VALID, TEST = "train", "valid", "test"


def split_items(items: Sequence[Item], seed: int, valid_fraction: float, test_fraction: float) -> list[str]:
    """The split of each item: `train`, `valid` or `test`, stratified by class, groups kept whole.

    Splits that the dataset gives are kept; a split it does not give is taken out of train. In a union each part is
    asked for itself: that one of them gives a test split takes none from the classes of the others.
    Each group of duplicates is ranked in its class by a hash of (seed, content), which does not
    depend on the other groups. Test is taken from one end and valid from the other, so that adding
    k files moves each of the two boundaries past at most k other groups. Each split that is asked
    for gets at least one group of a class that has one to spare.
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
        ranked = sorted(members, key=lambda rows: _rank(seed, [items[row] for row in rows]))
        for name, fraction in ((TEST, test_fraction), (VALID, valid_fraction)):
            if name in there or fraction == 0:
                continue
            count = min(max(1, round(fraction * len(members))), len(ranked) - 1)
            cut = count if name == TEST else len(ranked) - count
            taken, ranked = (ranked[:cut], ranked[cut:]) if name == TEST else (ranked[cut:], ranked[:cut])
            for row in (row for rows in taken for row in rows):
                chosen[row] = name
    return chosen


def _part(item: Item) -> str:
    """The folder of the union that an image lies in; no class lies in two."""
    return item.name.partition("/")[0]


def _rank(seed: int, members: Sequence[Item]) -> str:
    content = min(item.record.pixels for item in members)
    return hashlib.sha256(f"{seed}/{content}".encode()).hexdigest()
