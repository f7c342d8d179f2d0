"""Writing of answers, labels and class lists, in transactions that can be repeated."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from sqlalchemy import Connection, Dialect, LargeBinary, TextClause, select, text

from eyevsai.core.errors import UserError
from eyevsai.inference_log.database import SQLITE, Database
from eyevsai.inference_log.label_store import (
    LabelResults,
    accept_waiting,
    exclude_source,
    include_source,
    store_labels,
)
from eyevsai.inference_log.records import Answer, Label, Version
from eyevsai.inference_log.schema import answers, versions
from eyevsai.inference_log.settings import OFF, LogSettings, log_url

MAX_TEXT = 500  # characters of an error
MAX_INTEGER = 2**31 - 1
# row of `answers` without `seq`, in the order of its columns
_COLUMNS = [column for column in answers.columns if column.name != "seq"]


class LogStore(Database):
    """An inference log. Methods that write can be repeated: each record is stored once."""

    @classmethod
    def open(cls, url: str) -> LogStore:
        """Open a log and create its tables if they do not exist.

        Raises:
            LogUnavailableError: the database is unreachable.
            UserError: the URL is invalid, or the tables have another version.
        """
        store = cls(url)
        store.prepare()
        return store

    def add_answers(self, records: Sequence[Answer]) -> LabelResults:
        """Store answers, and accept the labels that have arrived before them.

        An answer whose id exists is skipped.

        Returns:
            Counts of the labels that are accepted now.

        Raises:
            ValueError, TypeError, OverflowError: a value has the wrong type or is too large.
        """
        rows = [make_row(each) for each in records]
        with self.writing() as connection:
            return insert_answers(connection, rows)

    def add_labels(self, records: Sequence[Label]) -> LabelResults:
        """Store labels by the rules of `label_store`."""
        with self.writing() as connection:
            return store_labels(connection, records)

    def add_versions(self, records: Sequence[Version]) -> None:
        """Store class lists.

        Raises:
            UserError: a version has another class list in the log.
        """
        with self.writing() as connection:
            insert_versions(connection, records)

    def exclude_source(self, source: str) -> bool:
        """Exclude a source of labels from now on; return False if it was excluded already."""
        with self.writing() as connection:
            return exclude_source(connection, source, time.time())

    def include_source(self, source: str) -> bool:
        """End the exclusion of a source; return False if it was not excluded."""
        with self.writing() as connection:
            return include_source(connection, source)

    def classes(self, model: str) -> tuple[str, ...]:
        """Return the classes of all logged versions of a model, sorted; empty if it has none."""
        lists = self.version_classes(model).values()
        return tuple(sorted({name for names in lists for name in names}))

    def version_classes(self, model: str) -> dict[int, tuple[str, ...]]:
        """Return the classes by version, in the order of the probabilities."""
        wanted = select(versions.c.version, versions.c.classes).where(versions.c.model == model)
        with self.reading() as connection:
            return {version: tuple(names) for version, names in connection.execute(wanted)}

    def models(self) -> list[str]:
        """Return the names of the logged models, sorted."""
        with self.reading() as connection:
            return sorted(connection.scalars(select(versions.c.model).distinct()))

    def check_model(self, model: str) -> None:
        """Raise UserError if the log has no version of a model."""
        if model not in (names := self.models()):
            listed = ", ".join(names) or "none"
            raise UserError(
                f"The inference log {self.title} has no answers of {model}. It has: {listed}. "
                "Check the name and --log."
            )


def make_row(answer: Answer) -> tuple[Any, ...]:
    """Return the row of an answer, with plain values that each database accepts.

    Raises:
        ValueError, TypeError, OverflowError: a value has the wrong type or is too large.
    """
    probabilities, statistics = answer.probabilities, answer.statistics
    return (
        answer.id,
        float(answer.at),
        answer.model,
        int(answer.version),
        answer.arm,
        answer.status,
        _text(answer.label),
        _float(answer.probability),
        # values above 65504 would become infinite: probabilities are not
        None if probabilities is None else np.asarray(probabilities, dtype="<f2").tobytes(),
        None if statistics is None else np.asarray(statistics, dtype="<f4").tobytes(),
        _text(answer.error),
        _float(answer.model_ms),
        _float(answer.queue_ms),
        _int(answer.width),
        _int(answer.height),
        _int(answer.bytes),
        answer.sha256,
        answer.key_hash,
        answer.step,
        answer.shadow_of,
    )


def _text(value: str | None) -> str | None:
    """Return text without characters that PostgreSQL or UTF-8 reject, at most `MAX_TEXT` long."""
    if value is None or (value.isascii() and len(value) <= MAX_TEXT and "\0" not in value):
        return value
    short = value[:MAX_TEXT].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return short.encode("utf-8", "replace").decode()


def _float(value: float | None) -> float | None:
    """Return a number without NaN and infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(value)


def _int(value: int | None) -> int | None:
    if value is None:
        return None
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise ValueError(f"{value} is too large")
    return int(value)


def insert_answers(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> LabelResults:
    """Store rows of `make_row` in an open transaction, and accept labels that waited for them."""
    if not rows:
        return LabelResults()
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql(_sqlite_insert(), list(rows))
    else:
        connection.execute(_postgresql_insert(connection.dialect), {"rows": _to_json(rows)})
    return accept_waiting(connection, [row[0] for row in rows])


@cache
def _sqlite_insert() -> str:
    """Return the statement that inserts a row of `make_row`; an id that exists is skipped.

    It takes tuples: SQLAlchemy's processing of dictionaries would take most of the time.
    """
    marks = ", ".join("?" * len(_COLUMNS))
    names = ", ".join(each.name for each in _COLUMNS)
    return f"INSERT INTO answers ({names}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"


@cache
def _postgresql_insert(dialect: Dialect) -> TextClause:
    """Return the statement that inserts all rows of a JSON text; ids that exist are skipped.

    A statement for each row would take ten times as long in this process.
    """
    names, declarations, values = list[str](), list[str](), list[str]()
    for each in _COLUMNS:
        is_binary = isinstance(each.type, LargeBinary)
        names.append(each.name)
        column_type = "TEXT" if is_binary else each.type.compile(dialect)
        declarations.append(f"{each.name} {column_type}")
        values.append(f"decode({each.name}, 'hex')" if is_binary else each.name)
    return text(
        f"INSERT INTO answers ({', '.join(names)}) SELECT {', '.join(values)} FROM "
        f"json_to_recordset(CAST(:rows AS json)) AS r({', '.join(declarations)}) "
        "ON CONFLICT (id) DO NOTHING"
    )


def _to_json(rows: Sequence[tuple[Any, ...]]) -> str:
    """Return rows as a JSON list of objects, with binary values in hexadecimal digits."""
    names = [each.name for each in _COLUMNS]
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    return json.dumps(objects, default=bytes.hex, allow_nan=False)


def insert_versions(connection: Connection, records: Sequence[Version]) -> None:
    """Store class lists in an open transaction; raise UserError if they contradict the log."""
    for each in records:
        stored = connection.scalar(
            select(versions.c.classes).where(
                versions.c.model == each.model, versions.c.version == each.version
            )
        )
        if stored is None:
            values = {"model": each.model, "version": each.version, "classes": list(each.classes)}
            connection.execute(versions.insert().values(values))
        elif tuple(stored) != tuple(each.classes):
            raise UserError(
                f"The inference log has other classes of {each.model} version {each.version}: it "
                "belongs to another registry. Use another --log."
            )


def open_log(settings: LogSettings) -> LogStore:
    """Open the log of settings.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the log is off, the URL is invalid, or the tables have another version.
    """
    if settings.log == OFF:
        raise UserError("--log off is no inference log. Set --log to the URL of the server's log.")
    return LogStore.open(log_url(settings))
