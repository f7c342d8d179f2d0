"""State machine of a rollout, as pure functions: no clock, no store, no log.

    prepared -> shadow -> split, one step for each share -> promoting -> promoted
        |          |  any step  ------------------------> rolled_back, with a reason
        \\-> refused \\-> held or paused (`hold`) -> resume | abort

A state is stored with each decision. `transition` gives the next one; `eyevsai.rollout.decision`
chooses the event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.registry.rollout_tag import OFF, PREPARED, SHADOW, SPLIT, RolloutTag
from eyevsai.rollout.policy import RolloutPolicy, format_share


class Phase(StrEnum):
    """Phase of a rollout."""

    PREPARED = "prepared"  # servers load the candidate; it answers nothing
    SHADOW = "shadow"  # it answers copies of requests, and nobody gets these answers
    SPLIT = "split"  # it answers a share of the keys
    PROMOTING = "promoting"  # all steps have passed; the promotion is under way
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"
    ABORTED = "aborted"


class Hold(StrEnum):
    """Reason why a rollout does not advance; an alarm still rolls it back."""

    NONE = ""
    PAUSED = "paused"  # by a person
    HELD = "held"  # by the controller


class Kind(StrEnum):
    """Kind of an event, which is also that of the decision."""

    START = "start"
    ADVANCE = "advance"
    HOLD = "hold"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTED = "promoted"
    ROLL_BACK = "roll_back"
    REFUSE = "refuse"
    ABORT = "abort"


OVER = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK, Phase.REFUSED, Phase.ABORTED})
_ENDS = {
    Kind.PROMOTED: Phase.PROMOTED,
    Kind.ROLL_BACK: Phase.ROLLED_BACK,
    Kind.REFUSE: Phase.REFUSED,
    Kind.ABORT: Phase.ABORTED,
}
# phases in which the controller or a person may cause an event
_ALLOWED = {
    Kind.ADVANCE: (Phase.PREPARED, Phase.SHADOW, Phase.SPLIT),
    Kind.PROMOTED: (Phase.PROMOTING,),
    Kind.REFUSE: (Phase.PREPARED,),
    Kind.ROLL_BACK: (Phase.PREPARED, Phase.SHADOW, Phase.SPLIT, Phase.PROMOTING),
}
# of the tag while the share is 0; a plan of shadow alone ends in PROMOTING
_MODES = {Phase.PREPARED: PREPARED, Phase.SHADOW: SHADOW, Phase.PROMOTING: SHADOW}


@dataclass(frozen=True)
class Event:
    """Cause of a transition, with the reason for the audit log."""

    kind: Kind
    reason: str = ""
    slow_ms: float | None = None  # threshold that is fixed when the first step begins


@dataclass(frozen=True)
class RolloutState:
    """Complete state of a rollout after a decision. Times are seconds since 1970."""

    model: str  # registered model
    run_id: str
    candidate: int  # version
    production: int  # version that it is compared with
    salt: str
    policy: RolloutPolicy
    started_at: float
    step_at: float  # start of the step, or its resumption
    phase: Phase = Phase.PREPARED
    hold: Hold = Hold.NONE
    position: int = -1  # of the step in the plan; -1 before the first one
    seq: int = 1  # number of the decision, which rises over all rollouts of a model
    reason: str = ""
    slow_ms: float | None = None  # model time above which an answer is slow; None if unknown yet
    expected_disagreement: float = (
        0.0  # share of the test images that both versions label otherwise
    )
    promotion_policy: str | None = None  # path of the promotion policy; None for the default
    class_change: bool = False  # other classes than in Production were accepted

    @property
    def is_over(self) -> bool:
        """True if no further decision follows."""
        return self.phase in OVER

    @property
    def share(self) -> int:
        """Share of the keys that the candidate answers now, of 10,000."""
        is_split = self.phase in (Phase.SPLIT, Phase.PROMOTING)
        return self.policy.shares[self.position] if is_split else 0

    @property
    def name(self) -> str:
        """State as people read it, for example `split 5 %, held`."""
        name = self.phase.value.replace("_", " ")
        if self.phase is Phase.SPLIT:
            name += f" {format_share(self.share)}"
        return f"{name}, {self.hold}" if self.hold and not self.is_over else name

    @property
    def steps(self) -> tuple[str, ...]:
        """Labels of the steps so far, the current one last; answers are logged with them."""
        return tuple(f"{self.run_id[:8]}:{index}" for index in range(self.position + 1))

    def tag(self) -> RolloutTag:
        """Return the instruction for the servers."""
        mode = SPLIT if self.share else OFF if self.is_over else _MODES[self.phase]
        return RolloutTag(
            run=self.run_id,
            seq=self.seq,
            mode=mode,
            share=self.share,
            salt=self.salt,
            version=self.candidate,
            production=self.production,
            step=self.steps[-1] if self.steps and not self.is_over else "",
            late_ms=self.policy.late_ms,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RolloutState:
        """Return the state that `to_json` returned; unknown fields of a newer eyevsai raise."""
        return cls(
            **{
                **values,
                "policy": RolloutPolicy(**values["policy"]),
                "phase": Phase(values["phase"]),
                "hold": Hold(values["hold"]),
            }
        )


def transition(state: RolloutState, event: Event, now: float) -> RolloutState:
    """Return the state after an event.

    Args:
        state: state before the event.
        event: the event.
        now: time in seconds since 1970.

    Raises:
        UserError: the event is not possible in this state.
    """
    _check(state, event)
    reason, kind = event.reason, event.kind
    state = replace(state, seq=state.seq + 1)
    if kind in _ENDS:
        return replace(state, phase=_ENDS[kind], hold=Hold.NONE, reason=reason)
    if kind is Kind.HOLD:
        return replace(state, hold=Hold.HELD, reason=reason)
    if kind is Kind.PAUSE:
        return replace(state, hold=Hold.PAUSED, reason=reason)
    if kind is Kind.RESUME:  # with the time of a new step, or it would be held again at once
        return replace(state, hold=Hold.NONE, reason=reason, step_at=now)
    position = state.position + 1
    slow_ms = event.slow_ms if state.slow_ms is None else state.slow_ms
    state = replace(state, reason=reason, step_at=now, slow_ms=slow_ms)
    if position == len(state.policy.shares):
        return replace(state, phase=Phase.PROMOTING)
    phase = Phase.SPLIT if state.policy.shares[position] else Phase.SHADOW
    return replace(state, phase=phase, position=position)


def _check(state: RolloutState, event: Event) -> None:
    """Raise UserError if an event is not possible in a state."""
    kind, title = event.kind, f"The rollout of {state.model} {state.candidate}"
    if state.is_over:
        raise UserError(f"{title} is over: {state.name}. Start another one.")
    if kind is Kind.PAUSE and state.hold:
        raise UserError(f"{title} is {state.hold} already.")
    if kind is Kind.RESUME and not state.hold:
        raise UserError(f"{title} is neither paused nor held; it is {state.name}.")
    allowed = _ALLOWED.get(kind, tuple(Phase))
    if state.phase not in allowed or (kind in (Kind.ADVANCE, Kind.PROMOTED) and state.hold):
        raise UserError(f"{title} is {state.name}, in which {kind} is not possible.")
