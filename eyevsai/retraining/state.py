"""State machine of retraining as pure functions: from a record and an event to the next record.

    idle -> triggered -> needs_labels -> frozen -> tuning -> training -> evaluating -> gated
         -> candidate -> rollout | waiting -> cooling -> idle

A step that fails leads to `failed`, and after `MAX_FAILURES` to `stopped`; a model that the gate
refuses leads to `refused` and then `cooling`. The caller stores the record after each event, so
that a process that dies between two events repeats one action at most. All actions can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from eyevsai.retraining.limits import (
    BACKOFF_S,
    HOUR_S,
    MAX_FAILURES,
    Training,
    exceeded_limit,
    recent_trainings,
)
from eyevsai.retraining.reasons import DAY_S, Reason, has_enough_labels
from eyevsai.retraining.record import (
    Action,
    Ended,
    Evaluated,
    Event,
    Failed,
    Frozen,
    Observed,
    Passed,
    Refused,
    Requested,
    Retraining,
    RolloutStarted,
    State,
    Trained,
    Tuned,
)
from eyevsai.retraining.settings import ROLLOUT, RetrainingPolicy

MAX_KEYS = 20  # keys of earlier trainings that a record keeps
_WORK = {
    State.TUNING: Action.TUNE,
    State.TRAINING: Action.TRAIN,
    State.EVALUATING: Action.EVALUATE,
    State.GATED: Action.CHECK,
    State.ROLLOUT: Action.FOLLOW_ROLLOUT,
    State.WAITING: Action.FOLLOW_PERSON,
}
_ASKING = (State.TRIGGERED, State.NEEDS_LABELS)
_RESTING = (State.IDLE, State.COOLING, State.FAILED, State.STOPPED)


@dataclass(frozen=True)
class Step:
    """Next action for a record, or None with the reason for which there is nothing to do."""

    action: Action | None
    text: str = ""


def next_step(record: Retraining, policy: RetrainingPolicy, now: float) -> Step:
    """Return what a watcher has to do next; `elapse` was applied before.

    Args:
        record: current record.
        policy: the policy.
        now: Unix time in seconds.
    """
    state = record.state
    if state in _ASKING:
        return _next_of_request(record, policy)
    if state is State.FROZEN:
        limit = exceeded_limit(record.trainings, policy, now)
        first = Action.TUNE if policy.trials else Action.TRAIN
        return Step(first) if limit is None else Step(None, limit)
    if state is State.CANDIDATE:
        return Step(Action.START_ROLLOUT if policy.promote == ROLLOUT else Action.FOLLOW_PERSON)
    return Step(_WORK.get(state), _explain(record, now))


def _next_of_request(record: Retraining, policy: RetrainingPolicy) -> Step:
    if has_enough_labels(record.reasons, record.new_labels, policy):
        return Step(Action.FREEZE)
    if record.state is State.TRIGGERED:
        return Step(Action.REQUEST_LABELS)
    return Step(
        None,
        f"waits for labels: {record.new_labels} are new, and a training requires "
        f"{policy.min_labels}.",
    )


def _explain(record: Retraining, now: float) -> str:
    """Return a sentence about a state without an action; empty if there is nothing to explain."""
    if record.state is State.STOPPED:
        return f"{record.failures} attempts failed, the last one with: {record.error}"
    if record.state is State.FAILED:
        hours = max(0.0, record.retry_at - now) / HOUR_S
        return f"the next attempt follows in {hours:.1f} hours, after the error: {record.error}"
    return ""


def begin(record: Retraining, action: Action, now: float) -> Retraining:
    """Return the record to store before an action: a training that was begun counts at once.

    Args:
        record: record in a state whose next step is `action`.
        action: action that will be performed.
        now: Unix time in seconds.
    """
    if record.state is State.CANDIDATE and action is Action.FOLLOW_PERSON:
        return _move(record, State.WAITING, now)
    if record.state is not State.FROZEN or action not in (Action.TUNE, Action.TRAIN):
        return record
    state = State.TUNING if action is Action.TUNE else State.TRAINING
    trainings = (*recent_trainings(record.trainings, now), Training(now))
    return _move(replace(record, trainings=trainings), state, now)


def advance(record: Retraining, event: Event, now: float) -> Retraining:
    """Return the record after an event; the same record if the event does not concern its state.

    Args:
        record: current record.
        event: result of an action, or a measurement.
        now: Unix time in seconds.
    """
    states, handle = _HANDLERS[type(event)]
    return handle(record, event, now) if record.state in states else record


def elapse(record: Retraining, policy: RetrainingPolicy, now: float) -> Retraining:
    """Return the record after the time of its state is over; the same record before that.

    Frozen data have no time, but ask for labels again if the policy requires more than they have.

    Args:
        record: current record.
        policy: the policy, with the times.
        now: Unix time in seconds.
    """
    if not _has_elapsed(record, policy, now):
        return record
    match record.state:
        case State.FAILED:
            # the failures are still counted: only a step that succeeds ends them
            sequence, state = record.sequence + 1, record.failed_in or State.IDLE
            return replace(record, state=state, since=now, sequence=sequence, retry_at=0.0)
        case State.REFUSED:
            return _move(record, State.COOLING, now)
        case State.FROZEN:
            return _move(record, State.TRIGGERED, now)
        case State.WAITING:
            return _move(replace(record, outcome="no decision in time"), State.COOLING, now)
        case State.NEEDS_LABELS:
            record = replace(record, outcome="the labelling request was not answered in time")
    return _move(_reset(record), State.IDLE, now)


def _has_elapsed(record: Retraining, policy: RetrainingPolicy, now: float) -> bool:
    if record.state is State.FAILED:
        return now >= record.retry_at
    has_labels = has_enough_labels(record.reasons, record.new_labels, policy)
    if record.state is State.FROZEN:  # the policy may require more labels than it did
        return not has_labels
    if record.state is State.NEEDS_LABELS and has_labels:
        return False
    durations_s = {
        State.REFUSED: 0.0,
        State.COOLING: policy.cooldown_hours * HOUR_S,
        State.NEEDS_LABELS: policy.request_days * DAY_S,
        State.WAITING: policy.wait_days * DAY_S,
    }
    duration_s = durations_s.get(record.state)
    return duration_s is not None and now >= record.since + duration_s


def _move(record: Retraining, state: State, now: float) -> Retraining:
    """Return the record in another state, without the failures of earlier steps."""
    return replace(
        record,
        state=state,
        since=now,
        sequence=record.sequence + 1,
        failures=0,
        error="",
        failed_in=None,
        retry_at=0.0,
    )


def _observe(record: Retraining, event: Observed, now: float) -> Retraining:
    """Start a cycle for a reason, update a waiting one, or start again by hand.

    Pauses after failures and after a cycle end for a person only.
    """
    by_hand = Reason.HAND in event.reasons
    if record.state is State.IDLE or (record.state is State.COOLING and by_hand):
        if not event.reasons:
            return record
        started = replace(_reset(record), outcome="", **_observed(event))
        return _move(started, State.TRIGGERED, now)
    if record.state in _ASKING:
        reasons = tuple(each for each in Reason if each in {*record.reasons, *event.reasons})
        updated = replace(record, **_observed(event) | {"reasons": reasons})
        is_equal = updated == record
        return record if is_equal else replace(updated, sequence=record.sequence + 1)
    if by_hand and record.failed_in is not None:
        return _move(record, record.failed_in, now)
    return record


def _observed(event: Observed) -> dict[str, Any]:
    return {
        "reasons": event.reasons,
        "production": event.production,
        "new_labels": event.new_labels,
    }


def _request(record: Retraining, event: Requested, now: float) -> Retraining:
    return _move(replace(record, requested=event.count), State.NEEDS_LABELS, now)


def _freeze(record: Retraining, event: Frozen, now: float) -> Retraining:
    """Accept frozen data, unless a model was trained on the same ones, or none are new."""
    if not event.key or event.key in record.keys:
        outcome = (
            "nothing new: a model was trained on the same data with the same policy"
            if event.key
            else "nothing new: no new label is in training or validation data"
        )
        ended = replace(record, outcome=outcome, labels_until=event.labels_until)
        return _move(ended, State.COOLING, now)
    frozen = replace(record, data=event.data, key=event.key, frozen_until=event.labels_until)
    return _move(frozen, State.FROZEN, now)


def _tune(record: Retraining, event: Tuned, now: float) -> Retraining:
    tuned = replace(_add_seconds(record, event.seconds), study=event.study)
    return _move(tuned, State.TRAINING, now)


def _train(record: Retraining, event: Trained, now: float) -> Retraining:
    """Store the version, and its key, so that the same data are never trained on twice."""
    keys = (*record.keys, record.key)[-MAX_KEYS:]
    record = _add_seconds(record, event.seconds)
    trained = replace(record, version=event.version, keys=keys, labels_until=record.frozen_until)
    return _move(trained, State.EVALUATING, now)


def _evaluate(record: Retraining, event: Evaluated, now: float) -> Retraining:
    return _move(_add_seconds(record, event.seconds), State.GATED, now)


def _pass(record: Retraining, _event: Passed, now: float) -> Retraining:
    return _move(record, State.CANDIDATE, now)


def _refuse(record: Retraining, event: Refused, now: float) -> Retraining:
    outcome = "refused: " + " ".join(event.texts)
    return _move(replace(record, outcome=outcome), State.REFUSED, now)


def _roll_out(record: Retraining, _event: RolloutStarted, now: float) -> Retraining:
    return _move(record, State.ROLLOUT, now)


def _end(record: Retraining, event: Ended, now: float) -> Retraining:
    return _move(replace(record, outcome=event.outcome), State.COOLING, now)


def _fail(record: Retraining, event: Failed, now: float) -> Retraining:
    """Count a failure: wait before the next attempt, or stop after `MAX_FAILURES`."""
    record = _add_seconds(record, event.seconds)
    failures = record.failures + 1
    is_last = failures >= MAX_FAILURES
    return replace(
        record,
        state=State.STOPPED if is_last else State.FAILED,
        since=now,
        sequence=record.sequence + 1,
        failures=failures,
        error=event.error,
        failed_in=record.state,
        retry_at=0.0 if is_last else now + BACKOFF_S[failures - 1],
    )


# states in which an event has an effect, and the function that applies it
_HANDLERS: dict[type, tuple[tuple[State, ...], Callable[[Retraining, Any, float], Retraining]]] = {
    Observed: (tuple(State), _observe),
    Requested: ((State.TRIGGERED,), _request),
    Frozen: (_ASKING, _freeze),
    Tuned: ((State.TUNING,), _tune),
    Trained: ((State.TRAINING,), _train),
    Evaluated: ((State.EVALUATING,), _evaluate),
    Passed: ((State.GATED,), _pass),
    Refused: ((State.GATED,), _refuse),
    RolloutStarted: ((State.CANDIDATE,), _roll_out),
    Ended: ((State.CANDIDATE, State.ROLLOUT, State.WAITING), _end),
    Failed: (tuple(state for state in State if state not in _RESTING), _fail),
}


def _reset(record: Retraining) -> Retraining:
    """Return the record without the values of its cycle."""
    return Retraining(
        record.state,
        record.since,
        record.sequence,
        record.trainings,
        record.keys,
        record.labels_until,
        record.outcome,
    )


def _add_seconds(record: Retraining, seconds: float) -> Retraining:
    """Add the seconds of a step to the last training."""
    if not record.trainings or seconds <= 0:
        return record
    *earlier, last = record.trainings
    updated = Training(last.started_at, last.seconds + seconds)
    return replace(record, trainings=(*earlier, updated))
