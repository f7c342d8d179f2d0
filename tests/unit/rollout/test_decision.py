from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.rollout.decision import (
    MIN_ANSWERS,
    Observation,
    ServerReport,
    check_startable,
    choose_slow_ms,
    decide,
    list_missing,
)
from eyevsai.rollout.evidence import ALARMS, BALANCE, LIMIT, NO_EVIDENCE, TOLERANCE, Evidence
from eyevsai.rollout.policy import RolloutPolicy
from eyevsai.rollout.state import Event, Hold, Kind, Phase, RolloutState, transition

POLICY = RolloutPolicy(plan="shadow,5,50", min_time_s=60, max_time_s=3_600)
PREPARED = RolloutState("pets", "run0run0", 8, 7, "ab", POLICY, 0.0, 0.0)
SHADOW = transition(PREPARED, Event(Kind.ADVANCE, slow_ms=30.0), 0.0)
SPLIT = transition(SHADOW, Event(Kind.ADVANCE), 0.0)
LAST = transition(SPLIT, Event(Kind.ADVANCE), 0.0)
ALIASES = {"production": 7, "candidate": 8}
LOADED = ServerReport("a", PREPARED.run_id, 1, is_loaded=True)
ALARM = math.log(300)
CLEAN = Evidence(NO_EVIDENCE.log_e | {LIMIT: 10.0}, requests=10_000, answers=500)
SEEN = Observation(CLEAN, (LOADED,), 30.0, ALIASES)


def with_evidence(**values: float) -> Observation:
    return replace(SEEN, evidence=replace(CLEAN, log_e=CLEAN.log_e | values))


def kind_of(state: RolloutState, seen: Observation, now: float = 120.0) -> str | None:
    event = decide(state, seen, now)
    return None if event is None else str(event.kind)


def test_prepared_waits_for_all_servers() -> None:
    other = replace(LOADED, server="b", is_loaded=False)
    assert kind_of(PREPARED, SEEN) == "advance"
    assert kind_of(PREPARED, replace(SEEN, servers=())) is None
    assert kind_of(PREPARED, replace(SEEN, servers=(LOADED, other))) is None
    stale = replace(other, run="another", is_loaded=True)
    assert list_missing(PREPARED, replace(SEEN, servers=(LOADED, stale)), 0.0) == [
        "the candidate is not loaded on b"
    ]


def test_prepared_waits_until_it_is_known_when_an_answer_is_slow() -> None:
    assert kind_of(PREPARED, replace(SEEN, slow_ms=None)) is None
    event = decide(PREPARED, SEEN, 1.0)
    assert event is not None
    assert transition(PREPARED, event, 1.0).slow_ms == 30.0


def test_candidate_that_does_not_load_is_refused_with_the_reason() -> None:
    failed = replace(LOADED, is_loaded=False, failure="its checksums differ")
    event = decide(PREPARED, replace(SEEN, servers=(failed,)), 1.0)
    assert event == Event(Kind.REFUSE, "a could not load the candidate: its checksums differ")
    other = replace(failed, run="another")
    assert kind_of(PREPARED, replace(SEEN, servers=(other,))) is None


@pytest.mark.parametrize("name", ALARMS)
@pytest.mark.parametrize("state", [SHADOW, SPLIT, LAST], ids=lambda state: state.name)
def test_alarm_rolls_back_at_three_over_alpha(name: str, state: RolloutState) -> None:
    assert kind_of(state, with_evidence(**{name: ALARM - 0.01})) == "advance"
    assert kind_of(state, with_evidence(**{name: ALARM})) == "roll_back"


@pytest.mark.parametrize("kind", [Kind.PAUSE, Kind.HOLD])
def test_held_rollout_is_rolled_back_but_does_not_advance(kind: Kind) -> None:
    state = transition(SPLIT, Event(kind), 0.0)
    assert kind_of(state, SEEN) is None
    assert kind_of(state, with_evidence(failed=ALARM)) == "roll_back"


def test_server_that_stopped_rolls_back_at_once() -> None:
    tripped = replace(LOADED, tripped="5 failures in a row")
    event = decide(SPLIT, replace(SEEN, servers=(tripped,)), 1.0)
    assert event == Event(Kind.ROLL_BACK, "a stopped using the candidate: 5 failures in a row")


def test_mismatch_of_the_split_holds() -> None:
    event = decide(SPLIT, with_evidence(**{BALANCE: math.log(100)}), 120.0)
    assert event is not None
    assert event.kind is Kind.HOLD
    assert "sample-ratio mismatch" in event.reason


def test_alarm_precedes_the_mismatch() -> None:
    seen = with_evidence(**{BALANCE: 50.0, "wrong": 50.0})
    assert kind_of(SPLIT, seen) == "roll_back"


@pytest.mark.parametrize(
    ("seen", "now", "missing"),
    [
        (SEEN, 10.0, "50 s of the minimum time"),
        (replace(SEEN, evidence=replace(CLEAN, answers=99)), 120.0, "99 of 100 answers"),
        (with_evidence(**{LIMIT: math.log(99)}), 120.0, "fewer than 1.00%"),
        (
            replace(SEEN, evidence=replace(CLEAN, labels=POLICY.min_labels)),
            120.0,
            "from 100 labels",
        ),
    ],
)
def test_step_waits_for_each_condition_and_is_held_in_the_end(
    seen: Observation, now: float, missing: str
) -> None:
    assert [missing in text for text in list_missing(SPLIT, seen, now)] == [True]
    assert decide(SPLIT, seen, now) is None
    state = replace(SPLIT, step_at=-POLICY.max_time_s)
    seen = seen if now > 60 else replace(seen, evidence=NO_EVIDENCE)
    event = decide(state, seen, 120.0)
    assert event is not None
    assert event.kind is Kind.HOLD


def test_labels_prove_the_tolerance_where_they_flow() -> None:
    labelled = replace(CLEAN, labels=500)
    assert kind_of(SPLIT, replace(SEEN, evidence=labelled)) is None
    proved = replace(labelled, log_e=CLEAN.log_e | {TOLERANCE: math.log(100)})
    assert kind_of(SPLIT, replace(SEEN, evidence=proved)) == "advance"


def test_last_step_leads_to_the_promotion() -> None:
    event = decide(LAST, SEEN, 120.0)
    assert event is not None
    promoting = transition(LAST, event, 120.0)
    assert promoting.phase is Phase.PROMOTING
    assert decide(promoting, SEEN, 121.0) is None


@pytest.mark.parametrize(
    ("aliases", "text"),
    [
        ({"production": 9, "candidate": 8}, "production was moved to version 9"),
        ({"production": 8, "candidate": 8}, "production was moved to version 8"),
        ({"candidate": 8}, "production was removed"),
        ({"production": 7, "candidate": 6}, "candidate was moved to version 6"),
        ({"production": 7}, "candidate was removed"),
    ],
)
def test_alias_moved_by_hand_aborts(aliases: dict[str, int], text: str) -> None:
    event = decide(SPLIT, replace(SEEN, aliases=aliases), 120.0)
    assert event is not None
    assert event.kind is Kind.ABORT
    assert text in event.reason


def test_alias_of_the_candidate_may_be_missing_until_the_decision_is_written() -> None:
    seen = replace(SEEN, aliases={"production": 7}, is_applied=False)
    assert kind_of(PREPARED, seen) == "advance"


def test_both_versions_may_have_the_alias_during_the_promotion() -> None:
    promoting = transition(LAST, Event(Kind.ADVANCE), 0.0)
    assert decide(promoting, SEEN, 1.0) is None
    assert decide(promoting, replace(SEEN, aliases=ALIASES | {"production": 8}), 1.0) is None
    assert kind_of(promoting, replace(SEEN, aliases=ALIASES | {"production": 9})) == "abort"


@pytest.mark.parametrize("hold", list(Hold))
def test_alarm_rolls_back_until_the_promotion_has_begun(hold: Hold) -> None:
    promoting = replace(transition(LAST, Event(Kind.ADVANCE), 0.0), hold=hold)
    seen = with_evidence(failed=ALARM)
    event = decide(promoting, seen, 1.0)
    assert event is not None
    assert transition(promoting, event, 1.0).phase is Phase.ROLLED_BACK
    assert decide(promoting, replace(seen, aliases=ALIASES | {"production": 8}), 1.0) is None


@given(
    state=st.sampled_from([PREPARED, SHADOW, SPLIT, LAST]),
    log_e=st.fixed_dictionaries({name: st.floats(-50, 50) for name in NO_EVIDENCE.log_e}),
    answers=st.integers(0, 1_000),
    labels=st.integers(0, 1_000),
    now=st.floats(-1e5, 1e5),
    is_held=st.booleans(),
)
def test_every_choice_is_possible_and_no_alarm_advances(
    *,
    state: RolloutState,
    log_e: dict[str, float],
    answers: int,
    labels: int,
    now: float,
    is_held: bool,
) -> None:
    state = replace(state, hold=Hold.HELD) if is_held else state
    seen = replace(SEEN, evidence=Evidence(log_e, 1_000, answers, labels))
    event = decide(state, seen, now)
    if event is None:
        return
    transition(state, event, now)
    has_alarm = any(log_e[name] >= ALARM for name in ALARMS)
    assert (event.kind is Kind.ROLL_BACK) == has_alarm
    if event.kind is Kind.ADVANCE and state.phase is not Phase.PREPARED:
        assert now - state.step_at >= POLICY.min_time_s
        assert answers >= POLICY.min_requests


def test_clock_that_goes_back_only_delays() -> None:
    assert decide(SPLIT, SEEN, -3_600.0) is None


def test_slow_is_three_times_the_usual_maximum_of_production() -> None:
    assert choose_slow_ms(POLICY, [10.0] * (MIN_ANSWERS - 1)) is None
    assert choose_slow_ms(POLICY, [10.0] * 94 + [20.0] * 6) == 60.0
    assert choose_slow_ms(replace(POLICY, slow_ms=5.0), []) == 5.0


def test_one_rollout_at_a_time() -> None:
    check_startable(None, 8, 7)
    check_startable(transition(SPLIT, Event(Kind.ABORT), 0.0), 8, 7)
    with pytest.raises(UserError, match="active: split 5 %"):
        check_startable(SPLIT, 9, 7)
    with pytest.raises(UserError, match="in Production already"):
        check_startable(None, 7, 7)
