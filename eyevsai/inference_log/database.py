"""Connections to the database of an inference log: creation, transactions, errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    TimeoutError,
)

from eyevsai.core.errors import JobError, UserError, first_line, write_error
from eyevsai.core.extras import missing_extra
from eyevsai.core.paths import expand
from eyevsai.inference_log.schema import SCHEMA_VERSION, UPGRADES, log_schema, metadata
from eyevsai.store.uris import mask_password

SQLITE, POSTGRESQL = "sqlite", "postgresql"
MODE = 0o600  # answers can be personal data
_BUSY_MS = 5_000  # a process waits this long for another one that writes
_CONNECT_S, _STATEMENT_MS, _TCP_MS = 5, 60_000, 10_000
_WRITERS = 0x65796576  # number of the advisory lock of all writers
_PRAGMAS = (
    # in this order: auto_vacuum has to precede the first table
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    # after a power cut the last transactions can be missing; the file stays consistent
    "PRAGMA synchronous = NORMAL",
    f"PRAGMA busy_timeout = {_BUSY_MS}",
)
# errors of single rows; all others concern the database
ROW_ERRORS = (DataError, IntegrityError)


class LogUnavailableError(JobError):
    """The database of an inference log is unreachable, full, or locked for too long."""


class Database:
    """A database, opened on the first use."""

    def __init__(self, url: str) -> None:
        """Check the URL. Nothing is opened or created.

        Raises:
            UserError: the URL is not one of SQLite or PostgreSQL, or a driver is missing.
        """
        self.url = _parse_url(url)
        self.engine = _make_engine(self.url)
        self.is_sqlite = self.engine.dialect.name == SQLITE
        self._is_prepared = False

    @property
    def path(self) -> Path | None:
        """The file of a SQLite database; None for PostgreSQL."""
        return Path(str(self.url.database)) if self.is_sqlite else None

    def prepare(self) -> None:
        """Create the tables if they do not exist, and upgrade those of an older version.

        Raises:
            LogUnavailableError: the database is unreachable.
            UserError: the file cannot be created, or the tables are of a newer version.
        """
        if self._is_prepared:
            return
        if self.path is not None:
            _create_file(self.path)
        with self._raising(), self.engine.connect() as connection, _begin(connection):
            metadata.create_all(connection)
            version = connection.scalar(select(func.max(log_schema.c.version)))
            if version in UPGRADES:
                connection.exec_driver_sql(UPGRADES[version])
            if version is None or version in UPGRADES:
                connection.execute(log_schema.insert().values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise UserError(
                    f"The inference log {self.title} has schema {version}, and this eyevsai uses "
                    f"schema {SCHEMA_VERSION}. Use another log, or the eyevsai that wrote it."
                )
        self._is_prepared = True

    @property
    def title(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes; writers of all processes take turns.

        Raises:
            LogUnavailableError: the database is unreachable, full, or locked for too long.
        """
        self.prepare()
        with self._raising(), self.engine.connect() as connection, _begin(connection):
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads.

        Raises:
            LogUnavailableError: the database is unreachable.
        """
        self.prepare()
        with self._raising(), self.engine.connect() as connection, connection.begin():
            yield connection

    def file_bytes(self) -> int:
        """Return the size of the database with its indexes, on its disk."""
        if self.path is not None:
            files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
            return sum(each.stat().st_size for each in files if each.exists())
        names = [table.name for table in metadata.sorted_tables]
        sizes = "sum(pg_total_relation_size(CAST(name AS regclass)))"
        statement = text(f"SELECT {sizes} FROM unnest(CAST(:names AS text[])) AS name")
        with self.reading() as connection:
            return int(connection.execute(statement, {"names": names}).scalar_one())

    def checkpoint(self) -> None:
        """Move the write-ahead log of a SQLite database into its file, and empty it."""
        with self._raising(), self.engine.connect() as connection:
            run_pragma(connection, "wal_checkpoint(TRUNCATE)")  # not inside a transaction

    def close(self) -> None:
        """Close all connections; a SQLite file is then complete without its write-ahead log."""
        self.engine.dispose()

    @contextmanager
    def _raising(self) -> Iterator[None]:
        """Convert errors of the database, except those of single rows."""
        try:
            yield
        except ROW_ERRORS:
            raise
        except (DBAPIError, TimeoutError, sqlite3.Error) as error:
            reason = mask_password(first_line(getattr(error, "orig", None) or error))
            raise LogUnavailableError(
                f"The inference log {self.title} cannot be used: {reason}. Check the database, "
                "its disk and its permissions."
            ) from error


@contextmanager
def _begin(connection: Connection) -> Iterator[None]:
    """Begin a transaction that excludes other writers, and commit it at the end of the block."""
    connection.execution_options(eyevsai_writes=True)
    with connection.begin():
        if connection.dialect.name == POSTGRESQL:
            # numbers are assigned at the insert, and become visible at the commit
            connection.execute(select(func.pg_advisory_xact_lock(_WRITERS)))
        yield


def insert_ignoring(connection: Connection, table: Table) -> Any:
    """Return an insert that skips rows whose key exists."""
    dialect = postgresql if connection.dialect.name == POSTGRESQL else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def run_pragma(connection: Connection, pragma: str) -> list[Any]:
    """Run a pragma of SQLite to its end, and return its rows.

    SQLAlchemy would run only the first step of a pragma without columns.
    """
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"PRAGMA {pragma}")
        return list(cursor.fetchall())
    finally:
        cursor.close()


def database_time(connection: Connection) -> float:
    """Return the time of the database in Unix seconds, which all of its clients share."""
    if connection.dialect.name == SQLITE:
        statement = "SELECT (julianday('now') - 2440587.5) * 86400.0"
    else:
        statement = "SELECT extract(epoch FROM clock_timestamp())"
    return float(connection.exec_driver_sql(statement).scalar_one())


def _parse_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _url_error(url) from None
    backend = parsed.get_backend_name()
    if backend == "postgres":
        backend = POSTGRESQL
    if backend == POSTGRESQL and "+" not in parsed.drivername:
        return parsed.set(drivername=f"{POSTGRESQL}+psycopg")
    if backend not in (SQLITE, POSTGRESQL):
        raise _url_error(parsed.render_as_string(hide_password=True))
    if backend == SQLITE:
        if not parsed.database or parsed.database == ":memory:":
            raise _url_error(url)
        return parsed.set(database=str(expand(parsed.database).absolute()))
    return parsed


def _url_error(url: str) -> UserError:
    return UserError(
        f"The inference log {mask_password(url)} is no database. Set --log to sqlite:///FILE or to "
        "postgresql://USER@HOST/DATABASE."
    )


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() == SQLITE:
        engine = create_engine(url)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    timeouts = {
        "connect_timeout": _CONNECT_S,
        "options": f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_STATEMENT_MS}",
        "tcp_user_timeout": _TCP_MS,
    }
    try:
        return create_engine(url, connect_args=timeouts, pool_pre_ping=True)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        title = url.render_as_string(hide_password=True)
        raise missing_extra(f"The inference log {title}", "postgres") from error


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    # without IMMEDIATE, a reader that becomes a writer fails if another process has written
    writes = connection.get_execution_options().get("eyevsai_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_file(path: Path) -> None:
    """Create the file of a SQLite database, readable for its owner only, and its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, MODE))
    except OSError as error:
        raise write_error(path, error, "Choose another --log.") from error
