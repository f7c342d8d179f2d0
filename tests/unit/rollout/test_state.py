from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.registry.rollout_tag import MODES
from eyevsai.rollout.policy import RolloutPolicy
from eyevsai.rollout.state import OVER, Event, Hold, Kind, Phase, RolloutState, transition

FIRST = RolloutState(
    model="pets",
    run_id="0123456789abcdef",
    candidate=8,
    production=7,
    salt="ab",
    policy=RolloutPolicy(plan="shadow,1,50"),
    started_at=100.0,
    step_at=100.0,
)


def advance(state: RolloutState, *kinds: Kind) -> RolloutState:
    for kind in kinds:
        state = transition(state, Event(kind, slow_ms=30.0), state.step_at + 10)
    return state


def test_plan_is_followed_to_the_promotion() -> None:
    states = [FIRST]
    while not states[-1].is_over:
        last = states[-1]
        kind = Kind.PROMOTED if last.phase is Phase.PROMOTING else Kind.ADVANCE
        states.append(advance(last, kind))
    assert [state.name for state in states] == [
        "prepared",
        "shadow",
        "split 1 %",
        "split 50 %",
        "promoting",
        "promoted",
    ]
    assert [state.tag().mode for state in states] == [
        "prepared",
        "shadow",
        "split",
        "split",
        "split",
        "off",
    ]
    assert [state.share for state in states] == [0, 0, 100, 5000, 5000, 0]
    assert [state.seq for state in states] == [1, 2, 3, 4, 5, 6]
    assert states[-2].steps == ("01234567:0", "01234567:1", "01234567:2")
    assert [state.tag().step for state in states] == [
        "",
        "01234567:0",
        "01234567:1",
        "01234567:2",
        "01234567:2",
        "",
    ]


def test_plan_of_shadow_alone_ends_in_the_promotion() -> None:
    first = replace(FIRST, policy=RolloutPolicy(plan="shadow"))
    promoting = advance(first, Kind.ADVANCE, Kind.ADVANCE)
    assert promoting.phase is Phase.PROMOTING
    assert promoting.tag().mode == "shadow"


def test_threshold_of_slow_answers_is_fixed_by_the_first_step() -> None:
    shadow = transition(FIRST, Event(Kind.ADVANCE, slow_ms=12.0), 110)
    assert transition(shadow, Event(Kind.ADVANCE, slow_ms=99.0), 120).slow_ms == 12.0


def test_pause_keeps_share_and_step() -> None:
    split = advance(FIRST, Kind.ADVANCE, Kind.ADVANCE)
    paused = advance(split, Kind.PAUSE)
    assert (paused.name, paused.share) == ("split 1 %, paused", split.share)
    assert paused.tag().step == split.tag().step
    resumed = transition(paused, Event(Kind.RESUME), 5_000)
    assert (resumed.name, resumed.step_at) == ("split 1 %", 5_000)


@pytest.mark.parametrize("hold", [Kind.PAUSE, Kind.HOLD])
def test_held_rollout_can_be_rolled_back_and_aborted_but_does_not_advance(hold: Kind) -> None:
    state = advance(FIRST, Kind.ADVANCE, Kind.ADVANCE, hold)
    assert advance(state, Kind.ROLL_BACK).phase is Phase.ROLLED_BACK
    assert advance(state, Kind.ABORT).phase is Phase.ABORTED
    with pytest.raises(UserError, match="not possible"):
        advance(state, Kind.ADVANCE)


@pytest.mark.parametrize("kind", list(Kind)[1:])
def test_ended_rollout_accepts_no_event(kind: Kind) -> None:
    with pytest.raises(UserError, match="over"):
        advance(FIRST, Kind.ABORT, kind)


def test_person_cannot_pause_twice_nor_resume_what_runs() -> None:
    with pytest.raises(UserError, match="paused already"):
        advance(FIRST, Kind.PAUSE, Kind.PAUSE)
    with pytest.raises(UserError, match="neither paused nor held"):
        advance(FIRST, Kind.RESUME)


@given(st.lists(st.sampled_from(Kind), max_size=12))
def test_any_sequence_of_events_keeps_the_invariants(kinds: list[Kind]) -> None:
    state = FIRST
    for kind in kinds:
        before = state
        try:
            state = advance(state, kind)
        except UserError:
            continue
        assert state.seq == before.seq + 1
        assert not before.is_over
        tag = state.tag()
        assert tag.mode in MODES
        # production answers all requests unless a split is under way
        assert (tag.share > 0) == (tag.mode == "split")
        assert (tag.mode == "off") == (state.phase in OVER)
        assert state.position >= before.position
        assert not (state.is_over and state.hold is not Hold.NONE)


@given(st.lists(st.sampled_from(Kind), max_size=8))
def test_state_survives_json(kinds: list[Kind]) -> None:
    state = FIRST
    for kind in kinds:
        try:
            state = advance(state, kind)
        except UserError:
            continue
    assert RolloutState.from_json(json.loads(json.dumps(state.to_json()))) == state
