"""Labels of a log: those accepted first, those that count, and their counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from sqlalchemy import and_, func, select

from eyevsai.inference_log.database import Database
from eyevsai.inference_log.ids import first_id
from eyevsai.inference_log.label_rules import Resolution, StoredLabel, resolve
from eyevsai.inference_log.label_summary import LabelCounter, LabelSummary
from eyevsai.inference_log.records import OK
from eyevsai.inference_log.schema import accepted, answers, excluded_sources, labels, suggestions

UNKNOWN_AFTER_S = 86_400.0  # an answer can arrive this much later than its label
_LISTED = 20  # ids in a summary
_BATCH = 10_000  # rows that a cursor fetches at once


@dataclass(frozen=True)
class AcceptedLabel:
    """The first accepted label of an answer. `seq` is its position in the order of arrival.

    `suggestion` is the reason why `feedback suggest` selected the answer, None if it did not.
    """

    seq: int
    id: str
    label: str
    source: str
    at: float
    predicted: str | None
    version: int
    arm: str
    step: str | None
    status: str
    suggestion: str | None


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer with all of its labels, excluded sources aside, and the one that counts."""

    id: str
    version: int
    predicted: str | None
    sha256: bytes | None
    resolution: Resolution
    labels: tuple[StoredLabel, ...]
    first: str | None  # accepted first

    @property
    def is_corrected(self) -> bool:
        """True if the label that counts differs from the first accepted one."""
        return None not in (self.first, self.resolution.label) and (
            self.first != self.resolution.label
        )


class LabelReader:
    """Labels of a log, as tests, accuracies and training data use them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def accepted(
        self,
        model: str,
        *,
        after_seq: int = 0,
        asked_for: str | None = None,
        version: int | None = None,
        limit: int = 10_000,
    ) -> list[AcceptedLabel]:
        """Return first accepted labels in the order of arrival, for tests that are not run again.

        Args:
            model: name of the model.
            after_seq: only those after this position.
            asked_for: only answers that `feedback suggest` selected, "random", "uncertain" or
                "any", with the first label after it. Only "random" ones give the error rate: labels
                that users send are mostly those of wrong answers.
            version: only this version.
            limit: largest number of labels.
        """
        columns = (accepted.c.seq, accepted.c.id, accepted.c.label, accepted.c.source,
                   accepted.c.at, answers.c.label, answers.c.version, answers.c.arm,
                   answers.c.step, answers.c.status, suggestions.c.reason)  # fmt: skip
        wanted = (
            select(*columns)
            .join(answers, answers.c.id == accepted.c.id)
            .outerjoin(suggestions, suggestions.c.id == accepted.c.id)
            .where(
                answers.c.model == model,
                accepted.c.seq > after_seq,
                accepted.c.is_suggested.is_(asked_for is not None),
            )
            .order_by(accepted.c.seq)
            .limit(limit)
        )
        if version is not None:
            wanted = wanted.where(answers.c.version == version)
        if asked_for not in (None, "any"):
            wanted = wanted.where(suggestions.c.reason == asked_for)
        with self.database.reading() as connection:
            return [AcceptedLabel(*row) for row in connection.execute(wanted)]

    def resolved(
        self, model: str, *, since: float | None = None, version: int | None = None
    ) -> Iterator[LabelledAnswer]:
        """Yield the successful answers with a label, in the order of their ids.

        Disputed answers are included: their resolution has no label. Labels of excluded sources are
        not used.
        """
        excluded = select(excluded_sources.c.source)
        columns = (labels.c.id, labels.c.seq, labels.c.source, labels.c.label, labels.c.at,
                   answers.c.version, answers.c.label.label("predicted"),
                   answers.c.sha256, accepted.c.label.label("first"))  # fmt: skip
        wanted = (
            select(*columns)
            .join(answers, answers.c.id == labels.c.id)
            .outerjoin(
                accepted, and_(accepted.c.id == labels.c.id, accepted.c.is_suggested.is_(False))
            )
            .where(
                answers.c.model == model,
                answers.c.status == OK,
                labels.c.source.not_in(excluded),
            )
            .order_by(labels.c.id)
        )
        if since is not None:
            wanted = wanted.where(labels.c.id >= first_id(since))
        if version is not None:
            wanted = wanted.where(answers.c.version == version)
        with self.database.reading() as connection:
            rows = connection.execution_options(yield_per=_BATCH).execute(wanted)
            for answer_id, group in groupby(rows, key=attrgetter("id")):
                same = list(group)
                stored = tuple(StoredLabel(row.seq, row.source, row.label, row.at) for row in same)
                row = same[0]
                yield LabelledAnswer(
                    answer_id,
                    row.version,
                    row.predicted,
                    row.sha256,
                    resolve(stored),
                    stored,
                    row.first,
                )

    def excluded(self) -> dict[str, float]:
        """Return the excluded sources, with the time since which they are."""
        with self.database.reading() as connection:
            return {row.source: row.at for row in connection.execute(select(excluded_sources))}

    def summary(self, model: str, *, since: float | None = None) -> LabelSummary:
        """Return counts of labels, and the share and disagreement of each source."""
        counter = LabelCounter()
        for each in self.resolved(model, since=since):
            counter.add(
                each.labels, each.resolution, each.predicted, is_corrected=each.is_corrected
            )
        number = select(func.count()).select_from(answers).where(answers.c.model == model)
        if since is not None:
            number = number.where(answers.c.id >= first_id(since))
        waiting = select(labels.c.id, labels.c.received_at).where(labels.c.is_waiting)
        with self.database.reading() as connection:
            total = connection.scalar(number) or 0
            rows = connection.execute(waiting).all()
        unknown_before = time.time() - UNKNOWN_AFTER_S
        unknown = sorted({row.id for row in rows if row.received_at < unknown_before})
        return LabelSummary(
            answers=total,
            labelled=counter.labelled,
            disputed=counter.disputed,
            corrected=counter.corrected,
            waiting=len({row.id for row in rows}) - len(unknown),
            unknown=len(unknown),
            unknown_ids=tuple(unknown[:_LISTED]),
            sources=counter.sources(self.excluded()),
        )
