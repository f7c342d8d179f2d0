"""Counts of labels, and how the sources of labels differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from eyevsai.inference_log.label_rules import Resolution, StoredLabel, newest_by_source

MAX_CORRECTIONS = 0.02  # share of corrected labels that is worth a notice


@dataclass(frozen=True)
class SourceSummary:
    """Labels of one source.

    `share` is that of all labelled answers. `disagreement` is the share of answers with another
    label by another source, among those that others labelled too; `error_rate` the share of labels
    that differ from the answer. Both are None without such answers.
    """

    answers: int
    share: float
    disagreement: float | None
    error_rate: float | None
    is_excluded: bool = False


@dataclass(frozen=True)
class LabelSummary:
    """State of the labels of a model.

    `waiting` labels have no answer yet; `unknown` ones have none after a day, and `unknown_ids`
    lists some. `corrected` answers have another label than the first accepted one.
    """

    answers: int
    labelled: int
    disputed: int
    corrected: int
    waiting: int
    unknown: int
    unknown_ids: tuple[str, ...]
    sources: Mapping[str, SourceSummary] = field(default_factory=dict)

    @property
    def has_many_corrections(self) -> bool:
        """True if more than 2 % of the labels were corrected: the first ones were unreliable."""
        return self.corrected > MAX_CORRECTIONS * max(self.labelled, 1)


@dataclass
class _SourceCounts:
    answers: int = 0
    shared: int = 0  # answers that other sources labelled, too
    disagreeing: int = 0
    wrong: int = 0  # answers that differ from the label

    def summarize(self, labelled: int, is_excluded: bool) -> SourceSummary:
        return SourceSummary(
            answers=self.answers,
            share=self.answers / labelled,
            disagreement=self.disagreeing / self.shared if self.shared else None,
            error_rate=self.wrong / self.answers if self.answers else None,
            is_excluded=is_excluded,
        )


@dataclass
class LabelCounter:
    """Counts over labelled answers."""

    labelled: int = 0
    disputed: int = 0
    corrected: int = 0
    by_source: dict[str, _SourceCounts] = field(default_factory=dict)

    def add(
        self,
        labels: Sequence[StoredLabel],
        resolution: Resolution,
        predicted: str | None,
        *,
        is_corrected: bool,
    ) -> None:
        """Count an answer.

        Args:
            labels: its labels.
            resolution: the label that counts.
            predicted: the answer.
            is_corrected: another label was accepted first.
        """
        self.labelled += 1
        self.disputed += resolution.is_disputed
        self.corrected += is_corrected
        newest = newest_by_source(labels)
        for source, label in newest.items():
            counts = self.by_source.setdefault(source, _SourceCounts())
            counts.answers += 1
            counts.wrong += label.label != predicted
            if len(newest) > 1:
                counts.shared += 1
                counts.disagreeing += any(each.label != label.label for each in newest.values())

    def sources(self, excluded: Iterable[str]) -> dict[str, SourceSummary]:
        """Return the summaries by source, those with most labels first; excluded ones at the end.

        The labels of excluded sources are not counted.
        """
        ordered = sorted(self.by_source.items(), key=lambda item: -item[1].answers)
        summaries = {name: counts.summarize(self.labelled, False) for name, counts in ordered}
        none = _SourceCounts().summarize(1, True)
        return summaries | dict.fromkeys(sorted(excluded), none)
