"""Storing of labels: repeated ones are skipped, and the first of each answer is accepted.

A label is accepted when its answer is stored, which can be later: labels and answers take different
ways. The first accepted label of an answer is written once, in the order of arrival, and never
changed by a correction: sequential tests read it, and would lose their guarantee if their past
changed. For answers that were suggested, the first label after the suggestion is accepted, too:
labels that users sent before are mostly those of wrong answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, select, update

from eyevsai.inference_log.database import insert_ignoring
from eyevsai.inference_log.records import Label
from eyevsai.inference_log.schema import (
    accepted,
    answers,
    excluded_sources,
    labels,
    suggestions,
)

ACCEPTED, REPEATED, CONFLICTING, WAITING = RESULTS = (
    "accepted",
    "repeated",
    "conflicting",
    "waiting",
)
CHUNK = 500  # ids of a query; SQLite allows 32,766 parameters
MAX_HISTORY = 20 * CHUNK  # stored labels that are read for a chunk
TICK_S = 1e-6  # between labels that arrive together, so that a later one is newer
MAX_AHEAD_S = 300.0  # clocks of clients may be ahead of this one
T = TypeVar("T")


@dataclass
class LabelResults:
    """Counts of stored labels by (model, version, result); both are "" for unknown answers.

    The results are `RESULTS`. A waiting label has no answer yet; a conflicting one has the source
    and the time of another label of the same answer, and is not stored.
    """

    counts: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def add(self, model: str, version: int | str, result: str, count: int = 1) -> None:
        """Add to a count."""
        key = (model, str(version), result)
        self.counts[key] = self.counts.get(key, 0) + count

    def update(self, other: LabelResults) -> None:
        """Add all counts of `other`."""
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count

    def total(self, result: str) -> int:
        """Return the count of a result over all versions."""
        return sum(count for key, count in self.counts.items() if key[2] == result)


class _History:
    """Labels of one answer by one source, by their time."""

    def __init__(self) -> None:
        self._by_time: dict[float, str] = {}
        self._newest = -math.inf

    def add(self, at: float, label: str) -> None:
        """Add a stored label."""
        self._by_time[at] = label
        self._newest = max(self._newest, at)

    def problem(self, at: float, label: str) -> str | None:
        """Return the reason not to store a label, REPEATED or CONFLICTING, or None."""
        if at in self._by_time:
            return REPEATED if self._by_time[at] == label else CONFLICTING
        is_same = at > self._newest and self._by_time.get(self._newest) == label
        return REPEATED if is_same else None


def store_labels(connection: Connection, records: Sequence[Label]) -> LabelResults:
    """Store labels in an open transaction.

    A label that repeats the newest one of its source is skipped.

    Args:
        connection: transaction that excludes other writers.
        records: labels in the order of their arrival, with ids and sources that were checked.
    """
    results, now = LabelResults(), time.time()
    if not records:
        return results
    excluded = set(connection.scalars(select(excluded_sources.c.source)))
    for start in range(0, len(records), CHUNK):
        chunk = records[start : start + CHUNK]
        _store_chunk(connection, chunk, excluded, results, now + start * TICK_S)
    return results


def _store_chunk(
    connection: Connection,
    chunk: Sequence[Label],
    excluded: set[str],
    results: LabelResults,
    now: float,
) -> None:
    ids = sorted({each.id for each in chunk})
    times = [_find_times(each, now + index * TICK_S) for index, each in enumerate(chunk)]
    versions = _read_versions(connection, ids)
    histories = _read_histories(connection, chunk, [at for at, _ in times])
    suggested = _read_suggestions(connection, ids)
    rows, firsts = list[dict[str, Any]](), list[dict[str, Any]]()
    for label, (at, received_at) in zip(chunk, times, strict=True):
        history = histories.setdefault((label.id, label.source), _History())
        model, version = versions.get(label.id, ("", ""))
        row = {"id": label.id, "source": label.source, "label": label.label, "at": at}
        is_eligible = model != "" and label.source not in excluded
        problem = history.problem(at, label.label)
        if is_eligible and problem != CONFLICTING and at >= suggested.get(label.id, math.inf):
            firsts.append({**row, "is_suggested": True})
        if problem is not None:
            results.add(model, version, problem)
            continue
        history.add(at, label.label)
        rows.append({**row, "received_at": received_at, "is_waiting": not model})
        if is_eligible:
            firsts.append({**row, "is_suggested": False})
        results.add(model, version, ACCEPTED if model else WAITING)
    if rows:
        connection.execute(labels.insert(), rows)
    if firsts:
        connection.execute(insert_ignoring(connection, accepted), firsts)


def accept_waiting(connection: Connection, ids: Sequence[str]) -> LabelResults:
    """Accept the labels that arrived before their answers, which are stored now.

    Args:
        connection: transaction that excludes other writers.
        ids: ids of the new answers.
    """
    results = LabelResults()
    waiting = select(labels.c.id).where(labels.c.is_waiting).limit(1)
    if connection.scalar(waiting) is None:  # nearly always
        return results
    excluded = set(connection.scalars(select(excluded_sources.c.source)))
    for chunk in chunks(ids, CHUNK):
        rows = connection.execute(
            select(labels.c.id, labels.c.label, labels.c.source, labels.c.at)
            .where(labels.c.is_waiting, labels.c.id.in_(chunk))
            .order_by(labels.c.seq)
        ).all()
        if not rows:
            continue
        versions = _read_versions(connection, sorted({row.id for row in rows}))
        for row in rows:
            results.add(*versions[row.id], ACCEPTED)
        firsts = [
            {**row._mapping, "is_suggested": False} for row in rows if row.source not in excluded
        ]
        if firsts:
            connection.execute(insert_ignoring(connection, accepted), firsts)
        connection.execute(
            update(labels)
            .where(labels.c.is_waiting, labels.c.id.in_(chunk))
            .values(is_waiting=False)
        )
    return results


def exclude_source(connection: Connection, source: str, at: float) -> bool:
    """Exclude a source: its labels do not count, and those that arrive later are not accepted.

    Labels that were accepted before stay: the tests that used them are not run again.

    Returns:
        False if it was excluded already.
    """
    row = {"source": source, "at": at}
    return bool(connection.execute(insert_ignoring(connection, excluded_sources), row).rowcount)


def include_source(connection: Connection, source: str) -> bool:
    """End the exclusion of a source; return False if it was not excluded.

    Labels that arrived meanwhile count again, but are not accepted as first labels.
    """
    return bool(
        connection.execute(
            excluded_sources.delete().where(excluded_sources.c.source == source)
        ).rowcount
    )


def _read_versions(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return model and version of the answers that exist."""
    wanted = select(answers.c.id, answers.c.model, answers.c.version).where(answers.c.id.in_(ids))
    return {row.id: (row.model, row.version) for row in connection.execute(wanted)}


def _read_suggestions(connection: Connection, ids: Sequence[str]) -> dict[str, float]:
    """Return the times at which answers were suggested."""
    wanted = select(suggestions.c.id, suggestions.c.at).where(suggestions.c.id.in_(ids))
    return {row.id: row.at for row in connection.execute(wanted)}


def _find_times(label: Label, now: float) -> tuple[float, float]:
    """Return the time of a label, and that of its arrival."""
    received_at = label.received_at or now
    # a label of the future would stay the newest forever
    is_past = label.at is not None and label.at <= received_at + MAX_AHEAD_S
    return (label.at if is_past and label.at is not None else received_at), received_at


def _read_histories(
    connection: Connection, chunk: Sequence[Label], times: Sequence[float]
) -> dict[tuple[str, str], _History]:
    """Return the stored labels of the same answers and sources.

    If there are very many, a source floods some answers: then only the newest one of each source,
    and those of the same times, since all of them would be read again for each chunk.

    Args:
        connection: transaction that excludes other writers.
        chunk: new labels.
        times: their times.
    """
    wanted = select(labels.c.id, labels.c.source, labels.c.at, labels.c.label)
    of_ids = wanted.where(labels.c.id.in_({each.id for each in chunk}))
    rows = connection.execute(of_ids.limit(MAX_HISTORY)).all()
    if len(rows) == MAX_HISTORY:
        by_source = dict[tuple[str, str], list[float]]()
        for each, at in zip(chunk, times, strict=True):
            by_source.setdefault((each.id, each.source), []).append(at)
        rows = []
        for (answer_id, source), ats in by_source.items():
            own = wanted.where(labels.c.id == answer_id, labels.c.source == source)
            rows += connection.execute(own.order_by(labels.c.at.desc()).limit(1)).all()
            rows += connection.execute(own.where(labels.c.at.in_(ats))).all()
    histories = dict[tuple[str, str], _History]()
    for row in rows:
        histories.setdefault((row.id, row.source), _History()).add(row.at, row.label)
    return histories


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield consecutive parts of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
