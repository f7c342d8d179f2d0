"""A store whose project folder was moved: MLflow keeps absolute paths, which then lead nowhere."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from eyevsai.core.errors import UserError

PATH_COLUMNS = (  # what holds absolute paths in MLflow's tables
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


def find_original_dir(store: Path) -> Path | None:
    """The folder from which the store was moved here with its artifacts; None when all is well.

    That is one in which an experiment's artifacts are said to be and are not, while they lie beside
    the store.
    """
    with closing(_open_database(store)) as database:
        values = [
            value for (value,) in database.execute("select artifact_location from experiments")
        ]
    for place in filter(None, map(_local_path, values)):
        root, found, name = str(place).rpartition(f"/{ARTIFACTS}/")
        if found and not place.exists() and (store.parent / ARTIFACTS / name).is_dir():
            return Path(root)
    return None


def relocate(store: Path) -> Relocation:
    """Leads all paths into the folder from which the store was moved to the one in which it lies
    now.

    The store is copied first; all paths change or none.

    Raises:
        UserError: there is nothing to mend, or the store cannot be written.
    """
    try:
        before = find_original_dir(store)
        if before is None:
            raise UserError(
                f"{store} was not moved: its artifacts are where it says. There is nothing to mend."
            )
        backup = back_up(store)
        with closing(_open_database(store)) as database, database:
            paths = sum(
                _replace_prefix(database, table, column, before, store.parent)
                for table, column in PATH_COLUMNS
            )
    except (sqlite3.Error, OSError) as error:
        raise UserError(f"{store} cannot be mended: {error}. Nothing in it was changed.") from error
    return Relocation(before, store.parent, paths, backup)


def back_up(store: Path) -> Path:
    """Copy a SQLite store beside itself and return the path of the copy.

    Raises:
        sqlite3.Error or OSError: it cannot be copied.
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
        raise UserError(f"There is no store {store}.")
    return sqlite3.connect(store)


def _local_path(value: str | None) -> Path | None:
    """An artifact path on this machine; None for one of another kind."""
    parts = urlsplit(value or "")
    if not value or parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parts.path) if parts.scheme else value)


def _replace_prefix(
    database: sqlite3.Connection, table: str, column: str, before: Path, after: Path
) -> int:
    changed = 0
    for old, new in (
        (str(before), str(after)),
        (f"file://{quote(str(before))}", f"file://{quote(str(after))}"),
    ):
        start = f"{old}/{ARTIFACTS}/"
        cursor = database.execute(
            f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, "
            "?) = ?",
            (f"{new}/{ARTIFACTS}/", len(start) + 1, len(start), start),
        )
        changed += cursor.rowcount
    return changed
