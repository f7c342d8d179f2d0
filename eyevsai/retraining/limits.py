"""Limits of retraining: trainings and hours in a week, and pauses after failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyevsai.retraining.settings import RetrainingPolicy

WEEK_S, HOUR_S = 7 * 86400.0, 3600.0
# Pauses after consecutive failures. The failure after the last pause stops the retraining until a
# person starts it again.
BACKOFF_S = (1 * HOUR_S, 6 * HOUR_S)
MAX_FAILURES = len(BACKOFF_S) + 1


@dataclass(frozen=True)
class Training:
    """Start of a training and the seconds that its steps have taken so far."""

    started_at: float
    seconds: float = 0.0


def recent_trainings(trainings: Sequence[Training], now: float) -> tuple[Training, ...]:
    """Return the trainings that were started in the last week."""
    return tuple(each for each in trainings if each.started_at > now - WEEK_S)


def exceeded_limit(
    trainings: Sequence[Training], policy: RetrainingPolicy, now: float
) -> str | None:
    """Return a sentence about the limit that forbids another training now; None if there is none.

    Args:
        trainings: earlier trainings of the model.
        policy: the limits.
        now: Unix time in seconds.
    """
    recent = recent_trainings(trainings, now)
    if len(recent) >= policy.runs_per_week:
        return (
            f"{len(recent)} trainings were started in the last 7 days; the policy allows "
            f"{policy.runs_per_week} (runs_per_week)."
        )
    hours = sum(each.seconds for each in recent) / HOUR_S
    if hours >= policy.hours_per_week:
        return (
            f"Trainings of the last 7 days took {hours:.1f} hours; the policy allows "
            f"{policy.hours_per_week:g} (hours_per_week)."
        )
    return None
