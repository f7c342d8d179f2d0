"""Deletion of answers by age, by size and by the key of a client, with all that belongs to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, func, select

from eyevsai.inference_log.database import Database, run_pragma
from eyevsai.inference_log.ids import first_id
from eyevsai.inference_log.images import ImageFolder, remove_images
from eyevsai.inference_log.schema import accepted, answers, images, labels, suggestions

BATCH = 5_000  # answers of a transaction: below 0.2 s
DAY_S = 86_400.0
_PAGES = 2_000  # that a transaction returns to the file system
_ROW_OVERHEAD = 200  # bytes of an answer in PostgreSQL's indexes and row header, measured


@dataclass(frozen=True)
class Retention:
    """Limits of a log; None for no limit."""

    days: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True)
class Deletion:
    """Numbers of deleted rows."""

    answers: int
    labels: int


def prune(
    database: Database, retention: Retention, folder: ImageFolder | None = None
) -> Iterator[Deletion]:
    """Delete old answers in batches, each in a transaction of its own; then return free space.

    A caller can do other things between batches. Nothing is deleted unless the iterator is
    consumed.

    Args:
        database: the log.
        retention: limits.
        folder: folder of the images.

    Raises:
        LogUnavailableError: the database is unreachable.
        OSError: the file of an image cannot be deleted.
    """
    number = 0
    for deletion in _prune(database, retention, folder):
        number += deletion.answers + deletion.labels
        yield deletion
    if number:
        release_space(database)


def _prune(
    database: Database, retention: Retention, folder: ImageFolder | None
) -> Iterator[Deletion]:
    if retention.days is not None:
        before = time.time() - retention.days * DAY_S
        deletion = Deletion(BATCH, 0)
        while deletion.answers == BATCH:
            deletion = _delete_oldest(database, BATCH, folder, first_id(before))
            yield deletion
        yield _delete_waiting(database, before)
    if retention.max_bytes is not None:
        while number := _count_excess(database, retention.max_bytes):
            while number > 0:
                yield _delete_oldest(database, min(number, BATCH), folder)
                number -= BATCH


def forget(
    database: Database, key_hashes: Sequence[str], folder: ImageFolder | None = None
) -> Deletion:
    """Delete the answers of a client with labels and images, and overwrite their space.

    Args:
        database: the log.
        key_hashes: hashes of the client's key, one for each model.
        folder: folder of the images.

    Raises:
        LogUnavailableError: the database is unreachable.
        OSError: the file of an image cannot be deleted.
    """
    own = select(answers.c.id).where(answers.c.key_hash.in_(key_hashes))
    shadows = select(answers.c.id).where(answers.c.shadow_of.in_(own))
    # shadows first: afterwards, they could not be found any more
    parts = [*_delete_selected(database, shadows, folder), *_delete_selected(database, own, folder)]
    release_space(database)
    return Deletion(sum(each.answers for each in parts), sum(each.labels for each in parts))


def release_space(database: Database) -> None:
    """Return the free pages of a SQLite log to the file system, and empty its write-ahead log.

    PostgreSQL reuses the space by itself (autovacuum).
    """
    if not database.is_sqlite:
        return
    free, is_shrinking = 0, True
    while is_shrinking:
        before = free
        with database.writing() as connection:
            run_pragma(connection, f"incremental_vacuum({_PAGES})")
            ((free,),) = run_pragma(connection, "freelist_count")
        # a file that another program has created keeps its free pages (auto_vacuum = NONE)
        is_shrinking = free > 0 and (before == 0 or free < before)
    database.checkpoint()


def _count_excess(database: Database, max_bytes: int) -> int:
    """Return the number of answers to delete for a size, 0 if the log is small enough."""
    with database.reading() as connection:
        total = int(connection.scalar(select(func.count()).select_from(answers)) or 0)
        if database.is_sqlite:
            size = _used_bytes(connection)
        else:  # the files do not shrink with deleted rows
            size = _row_bytes(connection) + _ROW_OVERHEAD * total
    if size <= max_bytes or total == 0:
        return 0
    return min(total, max(1, round(total * (1 - max_bytes / size))))


def _used_bytes(connection: Connection) -> int:
    """Return the size of a SQLite database without its free pages."""
    pages, free, size = (
        run_pragma(connection, name)[0][0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _row_bytes(connection: Connection) -> int:
    statement = "SELECT coalesce(sum(pg_column_size(answers.*)), 0) FROM answers"
    return int(connection.exec_driver_sql(statement).scalar_one())


def _delete_oldest(
    database: Database, count: int, folder: ImageFolder | None, before: str | None = None
) -> Deletion:
    """Delete the oldest answers by their ids, at most `count`.

    Args:
        database: the log.
        count: largest number of answers.
        folder: folder of the images.
        before: only answers with smaller ids.
    """
    oldest = select(answers.c.id).order_by(answers.c.id).limit(count)
    if before is not None:
        oldest = oldest.where(answers.c.id < before)
    with database.writing() as connection:
        last = connection.scalar(select(func.max(oldest.subquery().c.id)))
        if last is None:
            return Deletion(0, 0)
        # ranges of ids: lists of them would take most of the time
        deletion, digests = _delete(connection, database, lambda column: column <= last)
    if folder is not None:
        folder.delete(digests)
    return deletion


def _delete_selected(
    database: Database, ids: Select[Any], folder: ImageFolder | None
) -> Iterator[Deletion]:
    """Delete the answers of a query in batches."""
    deletion = Deletion(BATCH, 0)
    while deletion.answers == BATCH:
        with database.writing() as connection:
            selected = list(connection.scalars(ids.limit(BATCH)))
            deletion, digests = _delete(connection, database, partial(_contains, selected))
        if folder is not None:
            folder.delete(digests)
        yield deletion


def _contains(ids: Sequence[str], column: Column[str]) -> ColumnElement[bool]:
    return column.in_(ids)


def _delete(
    connection: Connection,
    database: Database,
    condition: Callable[[Column[str]], ColumnElement[bool]],
) -> tuple[Deletion, list[bytes]]:
    """Delete answers with all that belongs to them.

    Args:
        connection: transaction that excludes other writers.
        database: the log.
        condition: function from a column of ids to the condition.

    Returns:
        The numbers, and the digests of images whose files are to be deleted after the commit.
    """
    if database.is_sqlite:
        run_pragma(connection, "secure_delete = ON")
    counts = [
        connection.execute(table.delete().where(condition(table.c.id))).rowcount
        for table in (answers, labels, accepted, suggestions)
    ]
    digests = remove_images(connection, condition(images.c.answer_id))
    return Deletion(counts[0], counts[1]), digests


def _delete_waiting(database: Database, before: float) -> Deletion:
    """Delete labels that arrived before a time, and whose answers never did."""
    with database.writing() as connection:
        old = labels.delete().where(labels.c.is_waiting, labels.c.received_at < before)
        return Deletion(0, connection.execute(old).rowcount)
