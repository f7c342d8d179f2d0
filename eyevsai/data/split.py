"""Who is trained on, who chooses, who judges."""

from __future__ import annotations

import hashlib

from eyevsai.data.index import Item

TRAIN, VALID, TEST = "train", "valid", "test"


def split_items(items: list[Item], seed: int, valid_fraction: float, test_fraction: float) -> list[str]:
    """The split of each item: `train`, `valid` or `test`, stratified by class.

    Splits that the dataset gives are kept; a split it does not give is taken out of train.
    Each class is ranked by a hash of (seed, content), which does not depend on its other images:
    adding k files moves a boundary past at most k of them. A class that has an image to spare
    gives at least one to each split that is asked for.
    """
    given = {item.split for item in items}
    shares = [
        (name, fraction)
        for name, fraction in ((TEST, test_fraction), (VALID, valid_fraction))
        if name not in given and fraction > 0
    ]
    chosen = [item.split or TRAIN for item in items]
    members: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        if chosen[row] == TRAIN:
            members.setdefault(item.label, []).append(row)
    for rows in members.values():
        ranked = sorted(rows, key=lambda row: (_rank(seed, items[row]), items[row].name))
        start = 0
        for name, fraction in shares:
            count = min(max(1, round(fraction * len(rows))), len(rows) - start - 1)
            for row in ranked[start : start + count]:
                chosen[row] = name
            start += count
    return chosen


def _rank(seed: int, item: Item) -> str:
    return hashlib.sha256(f"{seed}/{item.digest}".encode()).hexdigest()
