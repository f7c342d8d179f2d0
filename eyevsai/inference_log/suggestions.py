"""Selection of the answers that a person should label next: the least certain, and a random part.

The random part gives the error rate. Labels that come by themselves do not: users report wrong
answers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, select

from eyevsai.inference_log.database import Database
from eyevsai.inference_log.ids import first_id
from eyevsai.inference_log.images import ImageFolder
from eyevsai.inference_log.label_store import CHUNK, chunks
from eyevsai.inference_log.records import CANDIDATE, NAMED, OK, PRODUCTION, RANDOM, UNCERTAIN
from eyevsai.inference_log.schema import answers, images, labels
from eyevsai.inference_log.schema import suggestions as suggestions_table


@dataclass(frozen=True)
class Suggestion:
    """An answer to be labelled."""

    id: str
    reason: str  # RANDOM or UNCERTAIN
    at: float
    version: int
    predicted: str
    probability: float
    sha256: bytes | None
    image: Path | None  # its stored file


@dataclass(frozen=True)
class Selection:
    """Selected answers, with their reasons by id.

    `at`, in Unix seconds, identifies the selection: answers that were recorded at that time belong
    to it.
    """

    at: float
    reasons: Mapping[str, str]


def select_answers(
    database: Database,
    model: str,
    count: int,
    *,
    random_share: float,
    since: float | None = None,
    with_image: bool = False,
) -> Selection:
    """Select answers that were not selected before; `record_selection` records them.

    Random answers can have labels already: without these, wrong answers would be missing, which
    users report. Uncertain ones have none. Draw the random part of a period at once: what was
    suggested as uncertain is not drawn at random later.

    Args:
        database: the log.
        model: name of the model.
        count: largest number of answers.
        random_share: share that is drawn at random from all answers; the others are those with the
            lowest probability.
        since: only answers from this time on, in Unix seconds.
        with_image: only answers with a stored image; the random ones from the random sample of
            images.

    Raises:
        LogUnavailableError: the database is unreachable.
    """
    draws = random.SystemRandom()
    with database.reading() as connection:
        # random answers first: those that are also uncertain have to stay among them
        wanted = _select_candidates(model, since, RANDOM if with_image else None)
        ids = list(connection.scalars(wanted))
        selected = dict.fromkeys(
            draws.sample(ids, min(len(ids), round(count * random_share))), RANDOM
        )
        wanted = _select_candidates(model, since, "any" if with_image else None)
        wanted = wanted.where(answers.c.id.not_in(select(labels.c.id)))
        least = wanted.order_by(answers.c.probability).limit(count)
        for answer_id in connection.scalars(least):
            if len(selected) < count:
                selected.setdefault(answer_id, UNCERTAIN)
    return Selection(time.time(), selected)


def record_selection(
    database: Database, selection: Selection, folder: ImageFolder | None = None
) -> list[Suggestion]:
    """Record selected answers, and return them.

    Answers that another call has recorded meanwhile are left out. The order is random, so that a
    person who labels does not see which are uncertain.

    Args:
        database: the log.
        selection: result of `select_answers`.
        folder: folder of the stored images.

    Raises:
        LogUnavailableError: the database is unreachable.
    """
    with database.writing() as connection:
        recorded = _record(connection, selection)
        suggestions = _read(connection, recorded, folder)
    random.SystemRandom().shuffle(suggestions)
    return suggestions


def withdraw_selection(database: Database, selection: Selection) -> None:
    """Forget a selection, of which some or no answers may be recorded.

    Raises:
        LogUnavailableError: the database is unreachable.
    """
    with database.writing() as connection:
        for chunk in chunks(list(selection.reasons), CHUNK):
            wanted = suggestions_table.c.id.in_(chunk) & (suggestions_table.c.at == selection.at)
            connection.execute(suggestions_table.delete().where(wanted))


def _record(connection: Connection, selection: Selection) -> dict[str, str]:
    """Store selected answers; return those that were not selected by another call meanwhile."""
    recorded = dict(selection.reasons)
    for chunk in chunks(list(recorded), CHUNK):
        wanted = select(suggestions_table.c.id).where(suggestions_table.c.id.in_(chunk))
        for answer_id in connection.scalars(wanted):
            del recorded[answer_id]
    rows = [{"id": key, "reason": reason, "at": selection.at} for key, reason in recorded.items()]
    if rows:
        connection.execute(suggestions_table.insert(), rows)
    return recorded


def _select_candidates(model: str, since: float | None, sample: str | None) -> Select[Any]:
    """Return the query of the answers that can be selected.

    Args:
        model: name of the model.
        since: only answers from this time on.
        sample: with a stored image: RANDOM for the random sample, "any" for all; None for all
            answers.
    """
    wanted = select(answers.c.id).where(
        answers.c.model == model,
        answers.c.status == OK,
        answers.c.arm.in_((PRODUCTION, CANDIDATE, NAMED)),
        answers.c.id.not_in(select(suggestions_table.c.id)),
    )
    if since is not None:
        wanted = wanted.where(answers.c.id >= first_id(since))
    if sample is not None:
        stored = select(images.c.answer_id)
        if sample == RANDOM:
            stored = stored.where(images.c.reason == RANDOM)
        wanted = wanted.where(answers.c.id.in_(stored))
    return wanted


def _read(
    connection: Connection, reasons: dict[str, str], folder: ImageFolder | None
) -> list[Suggestion]:
    names = ("id", "at", "version", "label", "probability", "sha256")
    suggestions = []
    for chunk in chunks(list(reasons), CHUNK):
        wanted = (
            select(*(answers.c[name] for name in names), images.c.sha256.label("stored"))
            .outerjoin(images, images.c.answer_id == answers.c.id)
            .where(answers.c.id.in_(chunk))
        )
        for row in connection.execute(wanted):
            path = None if folder is None or row.stored is None else folder.path(row.stored)
            suggestions.append(
                Suggestion(
                    row.id,
                    reasons[row.id],
                    row.at,
                    row.version,
                    row.label,
                    row.probability,
                    row.sha256,
                    path if path is not None and path.exists() else None,
                )
            )
    return suggestions


def summarize(suggestions: Sequence[Suggestion]) -> dict[str, Any]:
    """Return the number of answers by reason."""
    return {
        reason: sum(each.reason == reason for each in suggestions) for reason in (RANDOM, UNCERTAIN)
    }
