"""Coordination of controllers and servers through the log: leases, decisions, reports of servers.

A lease has a fencing number, which rises with each new holder. A decision is stored only while the
lease has the number of the holder that made it: a controller that was suspended, and resumes after
its lease expired, cannot decide any more.

The clock of the database may be set back. No lease has more than its whole duration left, and no
report is from the future: such a row was written before the change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select

from eyevsai.core.errors import JobError
from eyevsai.inference_log.database import Database, database_time, insert_ignoring
from eyevsai.inference_log.records import OK, PRODUCTION
from eyevsai.inference_log.schema import accepted, answers, decisions, leases, servers

_BATCH = 10_000  # rows that a cursor fetches at once
_FORGOTTEN_S = 86_400.0  # after which the report of a server that has ended is deleted
LIVE_S = "live_s"  # key of a report: seconds for which it counts


class StaleLeaseError(JobError):
    """The lease of a decision expired, and another process holds it."""


@dataclass(frozen=True)
class Lease:
    """The right to decide on `name` until `expires_at`, in Unix seconds of the database.

    `ttl_s` is the whole duration of the lease in seconds.
    """

    name: str
    owner: str
    fence: int
    expires_at: float
    ttl_s: float


@dataclass(frozen=True)
class Decision:
    """A stored decision. `seq` is its position within the topic."""

    topic: str
    seq: int
    at: float
    fence: int
    kind: str
    content: Mapping[str, Any]


class Coordination:
    """Leases, decisions and reports in the database of a log. Each method is one transaction.

    All methods raise `LogUnavailableError` if the database is unreachable.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def acquire_lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Acquire or extend a lease; return None while another owner holds it.

        The fencing number rises if the owner changes or the lease had expired.

        Args:
            name: subject of the lease.
            owner: unique name of the process.
            ttl_s: seconds until it expires, by the clock of the database.
        """
        with self.database.writing() as connection:
            now = database_time(connection)
            own = leases.c.name == name
            row = connection.execute(select(leases).where(own)).one_or_none()
            # later than this is only the lease of a clock that was set back: it is shortened, or
            # that of a process that has ended would last for as long as the clock was set back
            expires_at = 0.0 if row is None else min(row.expires_at, now + row.ttl_s)
            if row is not None and expires_at > now and row.owner != owner:
                if expires_at < row.expires_at:
                    connection.execute(leases.update().where(own).values(expires_at=expires_at))
                return None
            fence = 1 if row is None else row.fence + (expires_at <= now)
            lease = Lease(name, owner, fence, now + ttl_s, ttl_s)
            connection.execute(leases.delete().where(own))
            connection.execute(leases.insert().values(vars(lease)))
            return lease

    def release_lease(self, lease: Lease) -> None:
        """Let a lease expire now; nothing happens if another process holds it."""
        with self.database.writing() as connection:
            connection.execute(
                leases.update()
                .where(leases.c.name == lease.name, leases.c.fence == lease.fence)
                .values(expires_at=0.0)
            )

    def append_decision(
        self, lease: Lease, topic: str, seq: int, kind: str, content: Mapping[str, Any]
    ) -> bool:
        """Store a decision; return False if the topic has one with this `seq`.

        Args:
            lease: lease under which it was made.
            topic: subject, such as `rollout/NAME`.
            seq: position within the topic.
            kind: name of the decision.
            content: values for JSON.

        Raises:
            StaleLeaseError: another process acquired the lease meanwhile.
        """
        with self.database.writing() as connection:
            fence = connection.scalar(select(leases.c.fence).where(leases.c.name == lease.name))
            if fence != lease.fence:
                raise StaleLeaseError(
                    f"The lease {lease.name} of {lease.owner} expired, and another process holds "
                    "it. The decision was not stored; the other process decides."
                )
            row = {
                "topic": topic,
                "seq": seq,
                "at": database_time(connection),
                "fence": lease.fence,
                "kind": kind,
                "content": dict(content),
            }
            return bool(connection.execute(insert_ignoring(connection, decisions), row).rowcount)

    def read_decisions(self, topic: str, after: int = 0) -> list[Decision]:
        """Return the decisions of a topic after a position, in order."""
        wanted = select(*(decisions.c[name] for name in Decision.__dataclass_fields__))
        wanted = wanted.where(decisions.c.topic == topic, decisions.c.seq > after)
        with self.database.reading() as connection:
            rows = connection.execute(wanted.order_by(decisions.c.seq))
            return [Decision(*row) for row in rows]

    def report_server(self, server_id: str, model: str, content: Mapping[str, Any]) -> None:
        """Store the state of a server for a model; the former one is replaced.

        Args:
            server_id: name of the server.
            model: name of the model.
            content: values for JSON; with `live_s`, the report counts for so many seconds.
        """
        with self.database.writing() as connection:
            now = database_time(connection)
            is_replaced = or_(servers.c.server_id == server_id, servers.c.at < now - _FORGOTTEN_S)
            connection.execute(servers.delete().where(servers.c.model == model, is_replaced))
            row = {"server_id": server_id, "model": model, "at": now, "content": dict(content)}
            connection.execute(servers.insert().values(row))

    def read_servers(self, model: str, max_age_s: float) -> list[tuple[str, float, dict[str, Any]]]:
        """Return id, time and state of the servers whose report still counts.

        Args:
            model: name of the model.
            max_age_s: largest age of a report in seconds; its own `live_s` wins.
        """
        wanted = select(servers.c.server_id, servers.c.at, servers.c.content)
        wanted = wanted.where(servers.c.model == model).order_by(servers.c.server_id)
        with self.database.reading() as connection:
            # first the rows: a report that comes meanwhile must not seem to be from the future
            rows = connection.execute(wanted).all()
            now = database_time(connection)
        return [
            (row.server_id, row.at, row.content)
            for row in rows
            if 0 <= now - row.at <= row.content.get(LIVE_S, max_age_s)
        ]

    def read_rollout_answers(self, model: str, steps: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield rows in order of the ids.

        They have id, step, arm, key_hash, status, model_ms, queue_ms, label and shadow_of.

        Includes failed answers and those of the shadow.
        """
        names = (
            *("id", "step", "arm", "key_hash", "status"),
            *("model_ms", "queue_ms", "label", "shadow_of"),
        )
        wanted = (
            select(*(answers.c[name] for name in names))
            .where(answers.c.model == model, answers.c.step.in_(steps))
            .order_by(answers.c.id)
        )
        with self.database.reading() as connection:
            for row in connection.execution_options(yield_per=_BATCH).execute(wanted):
                yield tuple(row)

    def read_rollout_labels(self, model: str, steps: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield (answer id, first accepted label) in the order of arrival.

        Later corrections and disputes change nothing, so that evidence equals that of a replay.
        """
        wanted = (
            select(accepted.c.id, accepted.c.label)
            .join(answers, answers.c.id == accepted.c.id)
            .where(
                answers.c.model == model,
                answers.c.step.in_(steps),
                accepted.c.is_suggested.is_(False),
            )
            .order_by(accepted.c.seq)
        )
        with self.database.reading() as connection:
            for row in connection.execution_options(yield_per=_BATCH).execute(wanted):
                yield row.id, row.label

    def recent_model_ms(self, model: str, version: int, count: int = 1_000) -> list[float]:
        """Return the model times of the newest successful production answers, newest first."""
        wanted = (
            select(answers.c.model_ms)
            .where(
                answers.c.model == model,
                answers.c.version == version,
                answers.c.arm == PRODUCTION,
                answers.c.status == OK,
                answers.c.model_ms.is_not(None),
            )
            .order_by(answers.c.seq.desc())
            .limit(count)
        )
        with self.database.reading() as connection:
            return list(connection.scalars(wanted))
