"""Reasons for a retraining, from what a monitor measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from eyevsai.retraining.settings import RetrainingPolicy

DAY_S = 86400.0


class Reason(StrEnum):
    """Reason for a retraining."""

    HAND = "hand"
    RISK = "risk"
    LABELS = "labels"
    ACCURACY = "accuracy"
    DRIFT = "drift"
    AGE = "age"


# Reasons that an operator has decided on: they need some new labels, not `min_labels`. Drift and a
# low estimate ask for labels only: without labels, a training could learn nothing new.
DECIDED = frozenset({Reason.HAND, Reason.AGE})


@dataclass(frozen=True)
class Signals:
    """Measurements of a live model that can start a retraining.

    `new_labels` counts accepted labels with a stored image since the last training; `age_s` is the
    age of the version in Production.
    """

    drift: bool = False
    low_accuracy: bool = False
    risk: bool = False
    new_labels: int = 0
    age_s: float = 0.0
    by_hand: bool = False


def find_reasons(signals: Signals, policy: RetrainingPolicy) -> tuple[Reason, ...]:
    """Return the reasons for a retraining, in the order of `Reason`; empty if there is none."""
    is_old = policy.max_age_days is not None and signals.age_s > policy.max_age_days * DAY_S
    has_labels = policy.new_labels is not None and signals.new_labels >= policy.new_labels
    present = {
        Reason.HAND: signals.by_hand,
        Reason.RISK: signals.risk,
        Reason.LABELS: has_labels,
        Reason.ACCURACY: signals.low_accuracy,
        Reason.DRIFT: signals.drift,
        Reason.AGE: is_old,
    }
    return tuple(reason for reason in Reason if present[reason])


def has_enough_labels(reasons: Sequence[Reason], new_labels: int, policy: RetrainingPolicy) -> bool:
    """Return True if a training may start: it never does without new labels.

    Args:
        reasons: reasons for the retraining.
        new_labels: accepted labels since the last training.
        policy: the policy, with the minimum that applies unless a person or the age decided.
    """
    required = 1 if DECIDED & set(reasons) else policy.min_labels
    return new_labels >= required
