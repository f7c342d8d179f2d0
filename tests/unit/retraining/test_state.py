"""The state machine of retraining."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.settings import Range, list_settings
from eyevsai.registry.retraining_runs import MAX_RECORD
from eyevsai.retraining.limits import BACKOFF_S, HOUR_S, MAX_FAILURES, WEEK_S, Training
from eyevsai.retraining.reasons import DAY_S, Reason, Signals, find_reasons, has_enough_labels
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
from eyevsai.retraining.settings import RetrainingPolicy, policy_digest, retraining_key
from eyevsai.retraining.state import MAX_KEYS, advance, begin, elapse, next_step

POLICY = RetrainingPolicy()
NOW = 1_800_000_000.0
DRIFT = Observed((Reason.DRIFT,), 0, 7)
RISK = Observed((Reason.RISK,), 120, 7)


def run(record: Retraining, *events: Event, policy: RetrainingPolicy = POLICY) -> Retraining:
    """Apply events as a watcher does: begin the next action, then its result."""
    for event in events:
        step = next_step(record, policy, NOW)
        if step.action is not None:
            record = begin(record, step.action, NOW)
        record = advance(record, event, NOW)
    return record


TO_GATE = (RISK, Frozen("d1", "k1", 99), Trained(8, 60.0), Evaluated(5.0))


def test_whole_cycle_without_rollout() -> None:
    record = run(Retraining(), RISK)
    assert (record.state, record.production) == (State.TRIGGERED, 7)
    record = run(Retraining(), *TO_GATE, Passed())
    assert (record.state, record.version, record.keys) == (State.CANDIDATE, 8, ("k1",))
    assert record.trainings[0].seconds == 65.0
    assert next_step(record, POLICY, NOW).action is Action.FOLLOW_PERSON
    record = run(record, Ended("promoted"))
    assert (record.state, record.outcome) == (State.COOLING, "promoted")
    later = elapse(record, POLICY, NOW + POLICY.cooldown_hours * HOUR_S)
    assert later == Retraining(
        State.IDLE, NOW + 24 * HOUR_S, later.sequence, record.trainings, ("k1",), 99, "promoted"
    )


def test_rollout_needs_consent_of_the_policy() -> None:
    record = run(Retraining(), *TO_GATE, Passed())
    automatic = replace(POLICY, promote="rollout")
    assert next_step(record, automatic, NOW).action is Action.START_ROLLOUT
    record = run(record, RolloutStarted(), Ended("promoted"), policy=automatic)
    assert record.state is State.COOLING


def test_drift_without_labels_opens_a_request_and_never_trains() -> None:
    record = run(Retraining(), DRIFT)
    assert next_step(record, POLICY, NOW).action is Action.REQUEST_LABELS
    record = run(record, Requested(200))
    assert record.state is State.NEEDS_LABELS
    for labels in (0, 1, POLICY.min_labels - 1):
        record = advance(record, Observed((Reason.DRIFT,), labels, 7), NOW)
        step = next_step(record, POLICY, NOW)
        assert step.action is None
        assert f"{labels} are new" in step.text
    record = advance(record, Observed((), POLICY.min_labels, 7), NOW)
    assert record.reasons == (Reason.DRIFT,)  # the request goes on after the drift ended
    assert next_step(record, POLICY, NOW).action is Action.FREEZE


def test_unanswered_request_ends() -> None:
    record = run(Retraining(), DRIFT, Requested(200))
    assert elapse(record, POLICY, NOW + 13 * DAY_S) is record
    ended = elapse(record, POLICY, NOW + 14 * DAY_S)
    assert ended.state is State.IDLE
    assert "not answered" in ended.outcome


def test_same_data_never_train_twice() -> None:
    record = replace(Retraining(), keys=("k1",))
    record = run(record, RISK, Frozen("d1", "k1", 99))
    assert record.state is State.COOLING
    assert "nothing new" in record.outcome
    assert record.labels_until == 99


def test_data_without_a_new_label_are_not_trained_on() -> None:
    record = run(Retraining(), RISK, Frozen("d1", "", 99))
    assert record.state is State.COOLING
    assert "no new label" in record.outcome
    assert (record.labels_until, record.trainings) == (99, ())


def test_failures_wait_longer_and_stop_after_three() -> None:
    record = run(Retraining(), RISK, Frozen("d1", "k1", 99))
    now = NOW
    for number in range(1, MAX_FAILURES + 1):
        record = begin(record, Action.TRAIN, now)
        record = advance(record, Failed("no disk", 10.0), now)
        assert record.failures == number
        if number < MAX_FAILURES:
            assert record.state is State.FAILED
            assert elapse(record, POLICY, now + BACKOFF_S[number - 1] - 1) is record
            now += BACKOFF_S[number - 1]
            record = elapse(record, POLICY, now)
            assert record.state is State.TRAINING
    assert record.state is State.STOPPED
    assert len(record.trainings) == 1
    assert record.trainings[0].seconds == 30.0
    assert elapse(record, POLICY, now + 365 * DAY_S) is record
    assert "no disk" in next_step(record, POLICY, now).text
    assert advance(record, RISK, now) is record
    again = advance(record, Observed((Reason.HAND,), 0, 7), now)
    assert (again.state, again.failures) == (State.TRAINING, 0)


def test_success_resets_failures() -> None:
    record = begin(run(Retraining(), RISK, Frozen("d1", "k1", 99)), Action.TRAIN, NOW)
    record = elapse(advance(record, Failed("x"), NOW), POLICY, NOW + HOUR_S)
    assert record.failures == 1
    assert advance(record, Trained(8, 1.0), NOW).failures == 0


def test_limits_hold_a_training_back() -> None:
    record = run(Retraining(), RISK, Frozen("d1", "k1", 99))
    policy = replace(POLICY, runs_per_week=0)
    step = next_step(record, policy, NOW)
    assert step.action is None
    assert "runs_per_week" in step.text
    trained = run(Retraining(), RISK, Frozen("d1", "k1", 99), Trained(8, 25 * HOUR_S))
    waiting = replace(trained, state=State.FROZEN)
    assert "hours_per_week" in next_step(waiting, POLICY, NOW).text
    assert next_step(waiting, POLICY, NOW + WEEK_S).action is Action.TRAIN


def test_study_precedes_the_training_if_the_policy_has_trials() -> None:
    policy = replace(POLICY, trials=5)
    record = run(Retraining(), RISK, Frozen("d1", "k1", 99), Tuned("run7", 9.0), policy=policy)
    assert (record.state, record.study) == (State.TRAINING, "run7")
    assert len(record.trainings) == 1


def test_frozen_data_with_too_few_labels_are_not_trained_on() -> None:
    """The policy can be changed after the data were frozen."""
    record = run(Retraining(), Observed((Reason.RISK,), 60, 7), Frozen("d", "k", 99))
    assert record.state is State.FROZEN
    stricter = replace(POLICY, min_labels=61)
    assert elapse(record, POLICY, NOW) is record
    record = elapse(record, stricter, NOW)
    assert record.state is State.TRIGGERED
    assert next_step(record, stricter, NOW).action is Action.REQUEST_LABELS


def test_refused_model_cools_down() -> None:
    record = run(Retraining(), *TO_GATE, Refused(("worse.", "slow.")))
    assert record.outcome == "refused: worse. slow."
    record = elapse(record, POLICY, NOW)
    assert record.state is State.COOLING
    assert advance(record, RISK, NOW) is record
    assert advance(record, Observed((Reason.HAND,), 60, 7), NOW).state is State.TRIGGERED


def test_reasons() -> None:
    assert find_reasons(Signals(), POLICY) == ()
    signals = Signals(drift=True, low_accuracy=True, risk=True, new_labels=500, age_s=9e9)
    assert find_reasons(signals, POLICY) == (
        Reason.RISK,
        Reason.LABELS,
        Reason.ACCURACY,
        Reason.DRIFT,
    )
    assert find_reasons(Signals(age_s=2 * DAY_S), replace(POLICY, max_age_days=1)) == (Reason.AGE,)
    assert find_reasons(Signals(new_labels=10**6), replace(POLICY, new_labels=None)) == ()
    assert not has_enough_labels((Reason.HAND, Reason.DRIFT), 0, POLICY)
    assert has_enough_labels((Reason.HAND, Reason.DRIFT), 1, POLICY)
    assert not has_enough_labels((Reason.RISK,), POLICY.min_labels - 1, POLICY)


def test_key_depends_on_what_determines_the_result() -> None:
    digest = policy_digest(POLICY, {})
    assert policy_digest(replace(POLICY, runs_per_week=9, promote="rollout"), {}) == digest
    assert policy_digest(replace(POLICY, trials=9), {}) != digest
    assert policy_digest(POLICY, {"epochs": 3}) != digest
    assert len({retraining_key(*each) for each in (("a", "b", "c"), ("a", "bc", ""))}) == 2


events = st.one_of(
    st.builds(
        Observed,
        st.lists(st.sampled_from(Reason), unique=True).map(tuple),
        st.integers(0, 1000),
        st.integers(1, 9),
    ),
    st.builds(Requested, st.integers(1, 200)),
    st.builds(Frozen, st.just("d"), st.sampled_from(["k1", "k2", "k3"]), st.just(99)),
    st.builds(Tuned, st.just("study"), st.floats(0, 1e4)),
    st.builds(Trained, st.integers(1, 99), st.floats(0, 1e4)),
    st.builds(Evaluated, st.floats(0, 1e4)),
    st.just(Passed()),
    st.just(Refused(("worse",))),
    st.just(RolloutStarted()),
    st.just(Ended("promoted")),
    st.builds(Failed, st.just("error"), st.floats(0, 1e4)),
)


@given(st.lists(st.tuples(events, st.floats(0, 30 * DAY_S)), max_size=60), st.integers(0, 3))
def test_any_order_of_events(steps: list[tuple[Event, float]], trials: int) -> None:
    """No order of events trains without new labels, twice on one key, or beyond the limits."""
    policy, record, now = replace(POLICY, trials=trials), Retraining(), NOW
    trained = list[str]()
    for event, pause in steps:
        now += pause
        record = elapse(record, policy, now)
        step = next_step(record, policy, now)
        if step.action in (Action.TUNE, Action.TRAIN):
            assert has_enough_labels(record.reasons, record.new_labels, policy)
        if step.action is not None:
            record = begin(record, step.action, now)
        after = advance(record, event, now)
        assert after.sequence - record.sequence in (0, 1)
        assert (after == record) == (after.sequence == record.sequence)
        if isinstance(event, Trained) and after is not record:
            trained.append(after.key)
        record = after
        assert Retraining.from_json(json.loads(json.dumps(record.to_json()))) == record
        recent = [each for each in record.trainings if each.started_at > now - WEEK_S]
        assert len(recent) <= policy.runs_per_week
        assert record.failures <= MAX_FAILURES
        if record.state in (State.IDLE, State.TRIGGERED):
            assert record.version is None
    assert len(trained) == len(set(trained))


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_next_step_or_a_reason_to_wait(state: State) -> None:
    record = Retraining(state, NOW, failed_in=State.TRAINING, retry_at=NOW + 60, error="x")
    step = next_step(record, POLICY, NOW)
    is_resting = state in (State.IDLE, State.COOLING, State.REFUSED)
    assert step.action or step.text or is_resting


def test_largest_state_fits_into_a_tag() -> None:
    """With texts of 500 characters for error and outcome, as a watcher stores them."""
    settings = {each.name: each.allowed for each in list_settings(RetrainingPolicy)}
    limit = settings["runs_per_week"]
    assert isinstance(limit, Range)
    record = Retraining(
        State.EVALUATING,
        NOW + 0.123456,
        10**6,
        (Training(NOW + 0.123456, 12345.123456789),) * int(limit.high),
        ("a" * 64,) * MAX_KEYS,
        10**9,
        "x" * 500,
        tuple(Reason),
        *(99, 10**6, 10**6, 10**9, "d" * 64, "k" * 64, "s" * 32, 99, 3, "e" * 500),
        State.EVALUATING,
        NOW + 0.123456,
    )
    assert len(json.dumps(record.to_json(), separators=(",", ":"))) <= MAX_RECORD
