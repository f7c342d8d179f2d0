"""Relocation of a SQLite store whose project folder was moved: MLflow stores absolute paths."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.store.uris import local_path, spellings

PATH_COLUMNS = (  # columns with absolute paths in MLflow's tables
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
ARTIFACTS = "mlruns"


@dataclass(frozen=True)
class Relocation:
    """Result of a relocation: former and new folder, number of changed paths, and backup file."""

    before: Path
    after: Path
    paths: int
    backup: Path


def find_original_dir(store: Path) -> Path | None:
    """Return the folder from which a store was moved with its artifacts; None if it was not moved.

    A store was moved if the artifact folder of an experiment is missing at its recorded path, and
    exists below the folder of the store.

    Raises:
        UserError: the store does not exist.
    """
    with closing(_open_database(store)) as database:
        values = [
            value for (value,) in database.execute("select artifact_location from experiments")
        ]
    for path in map(Path, filter(None, (local_path(value or "") for value in values))):
        root, separator, name = path.as_posix().rpartition(f"/{ARTIFACTS}/")
        if separator and not path.exists() and (store.parent / ARTIFACTS / name).is_dir():
            return Path(root)
    return None


def relocate(store: Path) -> Relocation:
    """Replace the former folder of a moved store by its current folder in all stored paths.

    A backup of the store is made first. All paths change in one transaction, or none.

    Raises:
        UserError: the store does not exist, was not moved, or cannot be read or written.
    """
    try:
        before = find_original_dir(store)
        if before is None:
            raise UserError(
                f"{store} was not moved: its artifact paths are valid, so nothing was changed."
            )
        backup = back_up(store)
        with closing(_open_database(store)) as database, database:
            paths = sum(
                _replace_prefix(database, table, column, before, store.parent)
                for table, column in PATH_COLUMNS
            )
    except (sqlite3.Error, OSError) as error:
        raise UserError(f"{store} cannot be relocated: {error}. It was not changed.") from error
    return Relocation(before, store.parent, paths, backup)


def back_up(store: Path) -> Path:
    """Copy a SQLite store to a new file beside it and return the path of the copy.

    Raises:
        UserError: the store does not exist.
        sqlite3.Error: the store cannot be copied.
        OSError: the folder cannot be read.
    """
    name = f"{store.name}.backup-{datetime.now():%Y%m%d-%H%M%S}"
    suffixes = chain([""], (f"-{number}" for number in count(2)))
    backup = next(
        path for suffix in suffixes if not (path := store.with_name(name + suffix)).exists()
    )
    with closing(_open_database(store)) as database, closing(sqlite3.connect(backup)) as copy:
        database.backup(copy)
    return backup


def _open_database(store: Path) -> sqlite3.Connection:
    if not store.is_file():
        raise UserError(f"The store {store} does not exist.")
    return sqlite3.connect(store)


def _replace_prefix(
    database: sqlite3.Connection, table: str, column: str, before: Path, after: Path
) -> int:
    """Replace a folder in the paths and file URIs of a column; return the number of changes."""
    changed = 0
    before, after = before / ARTIFACTS, after / ARTIFACTS
    for old, new in dict(zip(spellings(before), spellings(after), strict=True)).items():
        start = f"{old}/"
        cursor = database.execute(
            f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, "
            "?) = ?",
            (f"{new}/", len(start) + 1, len(start), start),
        )
        changed += cursor.rowcount
    return changed
