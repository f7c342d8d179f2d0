"""A store whose project folder was moved: MLflow keeps absolute paths, which then lead nowhere."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from eyevsai.errors import UserError

PLACES = (  # what holds absolute paths in MLflow's tables
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
ARTIFACTS = "mlruns"


@dataclass(frozen=True)
class Relocation:
    """What was done: where from, where to, how many paths, and where the store before it lies."""

    before: Path
    after: Path
    paths: int
    backup: Path


def find_moved_from(store: Path) -> Path | None:
    """The folder in which the store's artifacts were, when they now lie beside the store; None when all is well."""
    here = store.parent
    with closing(_open(store)) as database:
        roots = {root for value in _values(database) if (root := _root(value)) is not None and root != here}
    moved = [root for root in roots if not (root / ARTIFACTS).exists()]
    return min(moved) if len(moved) >= 1 and (here / ARTIFACTS).is_dir() else None


def relocate(store: Path, before: Path | None = None) -> Relocation:
    """Leads all paths of `before`, found by itself when not given, to the folder in which the store lies now.

    The store is copied first; all paths change or none.

    Raises:
        UserError: there is nothing to mend, or the store cannot be written.
    """
    before = before or find_moved_from(store)
    if before is None:
        raise UserError(f"{store} was not moved: its artifacts are where it says. There is nothing to mend.")
    backup = store.with_name(f"{store.name}.backup-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        with closing(_open(store)) as database:
            with closing(sqlite3.connect(backup)) as copy:
                database.backup(copy)
            with database:
                paths = sum(_replace(database, table, column, before, store.parent) for table, column in PLACES)
    except (sqlite3.Error, OSError) as error:
        raise UserError(f"{store} cannot be mended: {error}. Nothing was changed; the copy is {backup}.") from error
    return Relocation(before, store.parent, paths, backup)


def _open(store: Path) -> sqlite3.Connection:
    if not store.is_file():
        raise UserError(f"There is no store {store}.")
    return sqlite3.connect(store)


def _values(database: sqlite3.Connection) -> list[str]:
    return [
        value
        for table, column in PLACES
        for (value,) in database.execute(f"select distinct {column} from {table} where {column} is not null")
    ]


def _root(value: str) -> Path | None:
    """The project folder of a local artifact path; None for a path of another kind."""
    parts = urlsplit(value)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    path = unquote(parts.path) if parts.scheme else value
    root, found, _ = path.partition(f"/{ARTIFACTS}/")
    return Path(root) if found and path.startswith("/") else None


def _replace(database: sqlite3.Connection, table: str, column: str, before: Path, after: Path) -> int:
    changed = 0
    for old, new in ((str(before), str(after)), (f"file://{quote(str(before))}", f"file://{quote(str(after))}")):
        start = f"{old}/{ARTIFACTS}/"
        cursor = database.execute(
            f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
            (f"{new}/{ARTIFACTS}/", len(start) + 1, len(start), start),
        )
        changed += cursor.rowcount
    return changed
