"""Who is trained on, who chooses, who judges."""

from __future__ import annotations

import hashlib

from eyevsai.data.index import Item

TRAIN, VALID, TEST = "train", "valid", "test"


def split_items(items: list[Item], seed: int, valid_fraction: float, test_fraction: float) -> list[str]:
    """The split of each item: `train`, `valid` or `test`, stratified by class.

    Splits that the dataset gives are kept; a split it does not give is taken out of train.
    Each class is ranked by a hash of (seed, content), which does not depend on its other images.
    Test is taken from one end and valid from the other, so that adding k files moves each of the
    two boundaries past at most k others. Each split that is asked for gets at least one image
    of a class that has one to spare.
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
        for name, fraction in shares:
            count = min(max(1, round(fraction * len(rows))), len(ranked) - 1)
            taken, ranked = (
                (ranked[:count], ranked[count:])
                if name == TEST
                else (ranked[len(ranked) - count :], ranked[: len(ranked) - count])
            )
            for row in taken:
                chosen[row] = name
    return chosen


def _rank(seed: int, item: Item) -> str:
    return hashlib.sha256(f"{seed}/{item.digest}".encode()).hexdigest()
