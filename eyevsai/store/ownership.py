"""Owner marks: files in artifact folders that record the store to which a folder belongs.

A mark is written when the folder is created. An artifact folder without an entity in a store may
belong to another store; only a mark proves which one.
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
    """Content of an owner mark: store id, path of the folder, and id of its run or logged model."""

    store: str
    location: str
    name: str


def write_mark(folder: Path, store: str) -> None:
    """Mark the folder of a run or a logged model as the property of a store.

    The folder is created if it does not exist. An OSError is ignored.

    Args:
        folder: artifact folder, named after the id of the run or logged model.
        store: id of the store.
    """
    with suppress(OSError):
        # Cleanups keep folders without a mark, so a missing mark is harmless.
        folder.mkdir(parents=True, exist_ok=True)
        mark = Mark(store, str(folder.resolve()), folder.name)
        write_atomically(folder / MARK, json.dumps(asdict(mark)))


def is_owned(folder: Path, stores: Collection[str]) -> bool:
    """Return True if a mark proves that `folder` belongs to one of `stores`, a set of store ids.

    A mark that was copied with its folder is invalid while the original folder exists. Without a
    readable mark the result is False.
    """
    mark = read_mark(folder)
    if mark is None or mark.store not in stores or mark.name != folder.name:
        return False
    location = Path(mark.location)
    return location == folder.resolve() or not location.exists()


def read_mark(folder: Path) -> Mark | None:
    """Return the mark of a folder; None if it is missing or cannot be read."""
    try:
        return Mark(**json.loads((folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
