"""Tables of the inference log, for SQLite and PostgreSQL.

`seq` columns are in the order of commits: writers of one log take turns, so that a reader which
continues after the last `seq` that it has seen misses no row. Clocks play no part in it. Numbers of
deleted rows are not used again (`sqlite_autoincrement`).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

SCHEMA_VERSION = 2
# statements that change a log of an older schema to this one
UPGRADES = {1: "ALTER TABLE leases ADD COLUMN ttl_s DOUBLE PRECISION NOT NULL DEFAULT 600"}

metadata = MetaData()
# SQLite assigns values only to columns of exactly this type
_Sequence = BigInteger().with_variant(Integer, "sqlite")


def _seq() -> Column[int]:
    return Column("seq", _Sequence, primary_key=True, autoincrement=True)


def _id(*, unique: bool = False) -> Column[str]:
    return Column("id", Text, nullable=False, unique=unique)


log_schema = Table("log_schema", metadata, Column("version", Integer, primary_key=True))

answers = Table(
    "answers",
    metadata,
    _seq(),
    _id(unique=True),
    Column("at", Double, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("arm", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("label", Text),
    Column("probability", Float),
    Column("probabilities", LargeBinary),  # C float16
    Column("statistics", LargeBinary),  # 6 float32
    Column("error", Text),
    Column("model_ms", Float),
    Column("queue_ms", Float),
    Column("width", Integer),
    Column("height", Integer),
    Column("bytes", Integer),
    Column("sha256", LargeBinary),
    Column("key_hash", Text),
    Column("step", Text),
    Column("shadow_of", Text),
    sqlite_autoincrement=True,
)
# most answers are in neither index
Index(
    "answers_step",
    answers.c.model,
    answers.c.step,
    sqlite_where=answers.c.step.is_not(None),
    postgresql_where=answers.c.step.is_not(None),
)
Index(
    "answers_shadow_of",
    answers.c.shadow_of,
    sqlite_where=answers.c.shadow_of.is_not(None),
    postgresql_where=answers.c.shadow_of.is_not(None),
)

# rows are only added; `is_waiting` becomes false when the answer arrives
labels = Table(
    "labels",
    metadata,
    _seq(),
    _id(),
    Column("source", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("is_waiting", Boolean, nullable=False),
    sqlite_autoincrement=True,
)
Index("labels_once", labels.c.id, labels.c.source, labels.c.at, unique=True)
Index(
    "labels_waiting",
    labels.c.id,
    sqlite_where=labels.c.is_waiting,
    postgresql_where=labels.c.is_waiting,
)

# the first label of each answer, written once when both exist: tests read it in this order. Answers
# that are suggested have a second row, for the first label that was given after it.
accepted = Table(
    "accepted",
    metadata,
    _seq(),
    _id(),
    Column("is_suggested", Boolean, nullable=False),
    Column("label", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("at", Double, nullable=False),
    sqlite_autoincrement=True,
)

Index("accepted_once", accepted.c.id, accepted.c.is_suggested, unique=True)

# answers that `feedback suggest` selected
suggestions = Table(
    "suggestions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", Double, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("classes", JSON, nullable=False),
    PrimaryKeyConstraint("model", "version"),
)

excluded_sources = Table(
    "excluded_sources",
    metadata,
    Column("source", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

images = Table(
    "images",
    metadata,
    _seq(),
    Column("sha256", LargeBinary, nullable=False),
    Column("answer_id", Text, nullable=False, unique=True),
    Column("reason", Text, nullable=False),
    Column("size", Integer, nullable=False),
    sqlite_autoincrement=True,
)
Index("images_sha256", images.c.sha256)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("ttl_s", Double, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("topic", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("content", JSON, nullable=False),
    PrimaryKeyConstraint("topic", "seq"),
)

servers = Table(
    "servers",
    metadata,
    Column("server_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("content", JSON, nullable=False),
    PrimaryKeyConstraint("server_id", "model"),
)
