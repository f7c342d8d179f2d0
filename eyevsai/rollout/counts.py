"""Counts of a rollout by step, from the answers and labels in the log.

Counts are never added over shares. The first event of a key in the rollout counts, and no other:
the requests of one key are not independent, and a key that failed in one step would fail again in
the next one, in the same arm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from eyevsai.rollout.routing import CANDIDATE, PRODUCTION, SHADOW

FAILED, SLOW, WRONG = KINDS = ("failed", "slow", "wrong")  # kinds of events
OK, TIMEOUT = "ok", "timeout"  # status of an answer, besides FAILED


class LoggedAnswer(NamedTuple):
    """Answer in the log, as far as evidence needs it."""

    id: str
    step: str
    arm: str
    key: str | None  # hashed key of the client; None without one
    status: str
    model_ms: float | None
    queue_ms: float | None
    label: str | None  # most probable class; None for a failure
    shadow_of: str | None = None  # id of the answer of production to the same request


@dataclass
class Pairs:
    """Requests that both versions answered, by the events of each."""

    total: int = 0
    candidate: int = 0  # event only in the answer of the candidate
    production: int = 0  # event only in that of production

    def add(self, candidate: bool, production: bool) -> None:
        """Count a request."""
        self.total += 1
        self.candidate += candidate and not production
        self.production += production and not candidate


@dataclass
class Split:
    """Events of a split step; `total` is that of both versions."""

    candidate: int = 0
    total: int = 0

    def add(self, is_candidate: bool) -> None:
        """Count an event."""
        self.total += 1
        self.candidate += is_candidate


@dataclass
class StepCounts:
    """Counts of one step."""

    share: float  # of the candidate, from 0 to 1; 0 for shadow
    answers: int = 0  # of the candidate, or pairs in shadow
    trials: int = 0  # keys that the candidate answered
    failures: int = 0  # of these, failed or late ones
    units: Split = field(default_factory=Split)  # keys that are new in the rollout
    events: dict[str, Split] = field(default_factory=lambda: {kind: Split() for kind in KINDS})
    pairs: dict[str, Pairs] = field(default_factory=lambda: {kind: Pairs() for kind in KINDS})
    compared: int = 0  # pairs with two labels
    disagreements: int = 0  # of these, different ones
    labelled: Split = field(default_factory=Split)  # labelled answers of a split


def count_answers(
    answers: Iterable[LoggedAnswer],
    labels: Mapping[str, str],
    shares: Mapping[str, float],
    *,
    slow_ms: float | None,
    late_ms: float,
) -> list[StepCounts]:
    """Return the counts of each step of a rollout.

    Args:
        answers: answers in the order of the log. Those of other steps are skipped, and so are those
            of versions that the client named, and of production in place of a failed candidate.
        labels: true class by the id of the answer, in the order of arrival.
        shares: share of each step from 0 to 1, by its label; 0 for shadow.
        slow_ms: model time above which an answer is slow; None if no answer is.
        late_ms: time with that in the queue above which an answer is slow, too: a candidate is not
            waited for any longer.
    """
    counter = _Counter(shares, slow_ms, late_ms, labels)
    shadows = []
    for answer in answers:
        if answer.step not in counter.steps:
            continue
        if answer.arm == SHADOW:
            shadows.append(answer)
        elif answer.arm in (PRODUCTION, CANDIDATE):
            counter.add(answer)
    for answer in shadows:  # afterwards: the log may have one before the answer that it belongs to
        counter.add_shadow(answer)
    for answer_id, label in labels.items():
        counter.add_label(answer_id, label)
    return list(counter.steps.values())


class _Counter:
    """Counts of a rollout, and the keys that they contain."""

    def __init__(
        self,
        shares: Mapping[str, float],
        slow_ms: float | None,
        late_ms: float,
        labels: Mapping[str, str],
    ) -> None:
        self.steps = {step: StepCounts(share) for step, share in shares.items()}
        self._slow_ms = math.inf if slow_ms is None else slow_ms
        self._late_ms, self._labels = late_ms, labels
        self._answers: dict[str, LoggedAnswer] = {}  # by id; only what labels or shadows refer to
        self._shadows: dict[str, LoggedAnswer] = {}  # by the id of the production answer
        self._units: set[str] = set()
        self._with_event: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._tried: set[tuple[str, str]] = set()
        self._paired: set[str] = set()
        self._labelled: set[str] = set()

    def add(self, answer: LoggedAnswer) -> None:
        """Count an answer of production, or of the candidate in a split."""
        step = self.steps[answer.step]
        if not step.share or answer.id in self._labels:
            self._answers[answer.id] = answer
        if step.share:
            self._add_split(step, answer)

    def add_shadow(self, answer: LoggedAnswer) -> None:
        """Count the answer of the candidate to a copy of a request; only the first one.

        A request that its client repeats has one answer of production, but may have two shadows.
        """
        step, production = self.steps[answer.step], self._answers.get(answer.shadow_of or "")
        if step.share or production is None or production.id in self._shadows:
            return
        self._shadows[production.id] = answer
        step.answers += 1
        unit = _unit_of(production)
        self._add_trial(step, answer, unit)
        if unit in self._paired:
            return
        self._paired.add(unit)
        step.pairs[FAILED].add(answer.status == FAILED, production.status == FAILED)
        # no times: a shadow computes only when no other thread or process wants the core
        if answer.label is not None and production.label is not None:
            step.compared += 1
            step.disagreements += answer.label != production.label

    def add_label(self, answer_id: str, label: str) -> None:
        """Count the label of an answer, unless another one of its key was counted."""
        answer = self._answers.get(answer_id)
        if answer is None or answer.label is None or _unit_of(answer) in self._labelled:
            return
        step, shadow = self.steps[answer.step], self._shadows.get(answer_id)
        if step.share:
            is_candidate = answer.arm == CANDIDATE
            step.labelled.add(is_candidate)
            if answer.label != label:
                step.events[WRONG].add(is_candidate)
        elif shadow is not None and shadow.label is not None:
            step.pairs[WRONG].add(shadow.label != label, answer.label != label)
        else:
            return
        self._labelled.add(_unit_of(answer))

    def _add_split(self, step: StepCounts, answer: LoggedAnswer) -> None:
        unit, is_candidate = _unit_of(answer), answer.arm == CANDIDATE
        if unit not in self._units:
            self._units.add(unit)
            step.units.add(is_candidate)
        if is_candidate:
            step.answers += 1
            self._add_trial(step, answer, unit)
        # a late answer of the candidate is slow: production has no deadline, so that two equal
        # versions would differ if it were a failure
        if answer.status == FAILED:
            self._add_event(step, FAILED, unit, is_candidate)
        elif self._is_slow(answer):
            self._add_event(step, SLOW, unit, is_candidate)

    def _add_trial(self, step: StepCounts, answer: LoggedAnswer, unit: str) -> None:
        trial = (answer.step, unit)
        if trial not in self._tried:
            self._tried.add(trial)
            step.trials += 1
            step.failures += answer.status != OK

    def _add_event(self, step: StepCounts, kind: str, unit: str, is_candidate: bool) -> None:
        if unit not in self._with_event[kind]:
            self._with_event[kind].add(unit)
            step.events[kind].add(is_candidate)

    def _is_slow(self, answer: LoggedAnswer) -> bool:
        model_ms = answer.model_ms or 0.0
        is_late = model_ms + (answer.queue_ms or 0.0) > self._late_ms
        return answer.status == TIMEOUT or is_late or model_ms > self._slow_ms


def _unit_of(answer: LoggedAnswer) -> str:
    """Return what counts once: the key of the client, or else the request."""
    return answer.id if answer.key is None else f"key {answer.key}"
