"""Rules for the labels of one answer, as pure functions.

The label of an answer is the newest one of the highest kind of source: person, rule, import. If the
newest labels of two persons differ, the answer is disputed, and has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from eyevsai.inference_log.records import KINDS, PERSON, kind_of


@dataclass(frozen=True)
class StoredLabel:
    """A label of an answer, with its position in the order of arrival."""

    seq: int
    source: str
    label: str
    at: float


@dataclass(frozen=True)
class Resolution:
    """The label that counts and its source; both are None for a disputed answer."""

    label: str | None
    source: str | None

    @property
    def is_disputed(self) -> bool:
        """True if two persons disagree."""
        return self.label is None


def resolve(stored: Sequence[StoredLabel]) -> Resolution:
    """Return the label that counts among those of one answer, at least one."""
    kind = min((kind_of(each.source) for each in stored), key=KINDS.index)
    newest = newest_by_source([each for each in stored if kind_of(each.source) == kind])
    if kind == PERSON and len({each.label for each in newest.values()}) > 1:
        return Resolution(None, None)
    best = max(newest.values(), key=attrgetter("at", "seq"))
    return Resolution(best.label, best.source)


def newest_by_source(stored: Sequence[StoredLabel]) -> dict[str, StoredLabel]:
    """Return the newest label of each source."""
    return {each.source: each for each in sorted(stored, key=attrgetter("at", "seq"))}
