"""A batch of records in one transaction. Records that cannot be stored are dropped, counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eyevsai.core.errors import UserError, first_line
from eyevsai.inference_log.database import LogUnavailableError
from eyevsai.inference_log.images import ImageFolder, insert_images
from eyevsai.inference_log.label_store import LabelResults, store_labels
from eyevsai.inference_log.records import Answer, KeptImage, Label, Record, Version
from eyevsai.inference_log.store import LogStore, insert_answers, insert_versions, make_row

log = logging.getLogger("eyevsai")

INVALID, IMAGE = "invalid", "image"  # reasons of dropped records
R = TypeVar("R", bound=Record)


@dataclass
class Outcome:
    """Counts of dropped records by reason, and of labels by result."""

    dropped: Counter[str] = field(default_factory=Counter)
    labels: LabelResults = field(default_factory=LabelResults)

    def update(self, other: Outcome) -> None:
        """Add the counts of `other`."""
        self.dropped.update(other.dropped)
        self.labels.update(other.labels)


def write_batch(
    store: LogStore, records: Sequence[Record], folder: ImageFolder | None = None
) -> Outcome:
    """Store records in one transaction; one by one if the database rejects a value.

    The call can be repeated: records that are stored are not stored again.

    Args:
        store: the log.
        records: answers, labels, class lists and images in the order of their arrival.
        folder: folder of images; needed if there are any.

    Raises:
        LogUnavailableError: the database is unreachable or full.
        UserError: its tables have another version.
    """
    store.prepare()
    try:
        return _write(store, records, folder)
    except LogUnavailableError:
        raise
    except Exception as error:
        log.debug("A batch of the inference log is written one by one: %s", first_line(error))
    outcome = Outcome()
    for record in records:
        outcome.update(_write_one(store, record, folder))
    return outcome


def _write_one(store: LogStore, record: Record, folder: ImageFolder | None) -> Outcome:
    try:
        return _write(store, [record], folder)
    except LogUnavailableError:
        raise
    except Exception as error:
        kind = type(record).__name__.lower()
        is_known = isinstance(error, UserError)
        log.error("An %s was not logged: %s", kind, first_line(error), exc_info=not is_known)
        return Outcome(Counter({INVALID: 1}))


def _write(store: LogStore, records: Sequence[Record], folder: ImageFolder | None) -> Outcome:
    outcome = Outcome()
    rows = _make_rows(_select(records, Answer), outcome)
    images = _write_files(_select(records, KeptImage), folder, outcome)
    with store.writing() as connection:
        insert_versions(connection, _select(records, Version))
        outcome.labels.update(insert_answers(connection, rows))
        outcome.labels.update(store_labels(connection, _select(records, Label)))
        insert_images(connection, images)
    return outcome


def _select(records: Sequence[Record], cls: type[R]) -> list[R]:
    return [each for each in records if isinstance(each, cls)]


def _make_rows(records: Sequence[Answer], outcome: Outcome) -> list[tuple[Any, ...]]:
    """Return the rows of answers; those with unusable values are dropped."""
    rows = []
    for each in records:
        try:
            rows.append(make_row(each))
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            log.error("The answer %s was not logged: %s", each.id, first_line(error))
            outcome.dropped[INVALID] += 1
    return rows


def _write_files(
    records: Sequence[KeptImage], folder: ImageFolder | None, outcome: Outcome
) -> list[KeptImage]:
    """Write the files of images before their rows; return those that are written.

    A full disk of images must not hold back the answers.
    """
    written = []
    for each in records:
        try:
            if folder is not None:
                folder.write(each)
                written.append(each)
        except OSError as error:
            log.warning("The image of %s was not stored: %s", each.answer_id, first_line(error))
            outcome.dropped[IMAGE] += 1
    return written
