"""Owner marks: the store that an artifact folder belongs to, written into the folder when it is
created.

A folder that a store does not know may belong to another store. Only a mark proves whose it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from eyevsai.core.atomic_dir import write_atomically

MARK = ".eyevsai-owner.json"


@dataclass(frozen=True)
class Mark:
    """The id of a store, the folder that was marked, and the run or logged model that it is of."""

    store: str
    location: str
    name: str


def write_mark(folder: Path, store: str) -> None:
    """Mark the folder of a run or a logged model, which is created if it does not exist."""
    with suppress(OSError):
        # a folder without a mark is kept, so that a full disk does no harm here
        folder.mkdir(parents=True, exist_ok=True)
        mark = Mark(store, str(folder.resolve()), folder.name)
        write_atomically(folder / MARK, json.dumps(asdict(mark)))


def is_owned(folder: Path, stores: Collection[str]) -> bool:
    """Return True if a mark proves that `folder` belongs to one of `stores`, by their ids.

    A mark that was copied with its folder proves nothing while the folder that it names exists.
    """
    mark = read_mark(folder)
    if mark is None or mark.store not in stores or mark.name != folder.name:
        return False
    location = Path(mark.location)
    return location == folder.resolve() or not location.exists()


def read_mark(folder: Path) -> Mark | None:
    """Return the mark of a folder; None if it has none that can be read."""
    try:
        return Mark(**json.loads((folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
