"""Choice of the next event of a rollout, from what was observed. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.evaluation.sequential import log_threshold
from eyevsai.rollout.counts import KINDS
from eyevsai.rollout.evidence import (
    ALARMS,
    BALANCE,
    DISAGREEMENT,
    LIMIT,
    NO_EVIDENCE,
    TOLERANCE,
    Evidence,
)
from eyevsai.rollout.policy import RolloutPolicy, format_share
from eyevsai.rollout.routing import CANDIDATE, PRODUCTION
from eyevsai.rollout.state import Event, Kind, Phase, RolloutState

LIVE_S = 60.0  # time after its last report for which a server is expected to obey
MIN_ANSWERS = 100  # of production, from which the threshold of slow answers is computed
SLOW_FACTOR, SLOW_QUANTILE = 3.0, 0.95
_TITLES = {
    "failed": "fails more often than production",
    "slow": "is slow more often than production",
    "wrong": "is wrong more often than production",
    DISAGREEMENT: "disagrees with production more often than on the test images",
}


@dataclass(frozen=True)
class ServerReport:
    """Report of a server about the rollout that it obeys."""

    server: str
    run: str  # rollout; empty for none
    seq: int  # decision that it obeys
    is_loaded: bool  # the candidate has been loaded and probed
    failure: str = ""  # reason why the candidate did not load
    tripped: str = ""  # reason why this server has set its share to 0

    @classmethod
    def from_json(cls, server: str, values: Mapping[str, Any]) -> ServerReport:
        """Return the report of a server from the values that it stored."""
        return cls(
            server,
            str(values.get("run", "")),
            int(values.get("seq", 0)),
            bool(values.get("is_loaded")),
            str(values.get("failure", "")),
            str(values.get("tripped", "")),
        )


@dataclass(frozen=True)
class Observation:
    """Facts that a decision is based on."""

    evidence: Evidence = NO_EVIDENCE
    servers: tuple[ServerReport, ...] = ()  # live ones
    slow_ms: float | None = None  # threshold for this rollout; None without enough answers
    aliases: Mapping[str, int] = field(default_factory=dict)
    is_applied: bool = True  # the registry agrees with the last decision


def decide(state: RolloutState, seen: Observation, now: float) -> Event | None:
    """Return the next event; None if the rollout stays as it is.

    Args:
        state: state of the rollout.
        seen: observation.
        now: time in seconds since 1970.
    """
    if state.is_over:
        return None
    if change := find_alias_change(state, seen):
        return Event(Kind.ABORT, change)
    if state.phase is Phase.PROMOTING:
        # a refused promotion leaves the candidate its share; one that has begun is completed
        is_begun = seen.aliases.get(PRODUCTION) != state.production
        return None if is_begun else _find_end(state, seen)
    return _find_end(state, seen) or _find_next(state, seen, now)


def _find_end(state: RolloutState, seen: Observation) -> Event | None:
    """Return the event that ends a rollout, also while it is held; None if it goes ahead."""
    if alarm := find_alarm(state, seen):
        return Event(Kind.ROLL_BACK, alarm)
    failure = _find_load_failure(state, seen) if state.phase is Phase.PREPARED else ""
    return Event(Kind.REFUSE, failure) if failure else None


def _find_next(state: RolloutState, seen: Observation, now: float) -> Event | None:
    """Return the event that advances or holds a rollout; None if it has to wait."""
    if state.hold:
        return None
    if seen.evidence.log_e[BALANCE] >= log_threshold(state.policy.alpha):
        return Event(Kind.HOLD, "requests are not split by the share: sample-ratio mismatch")
    missing = list_missing(state, seen, now)
    if not missing:
        return Event(Kind.ADVANCE, _describe_next(state), seen.slow_ms)
    duration_s = state.policy.max_time_s
    if now - state.step_at > duration_s:
        return Event(Kind.HOLD, f"after {duration_s:g} s in this step: {'; '.join(missing)}")
    return None


def find_alias_change(state: RolloutState, seen: Observation) -> str:
    """Return a sentence about an alias that was moved by hand; empty if none was."""
    expected = {PRODUCTION: {state.production}}
    if state.phase is Phase.PROMOTING:
        expected[PRODUCTION].add(state.candidate)
    if seen.is_applied:  # before, the alias may not have been set yet
        expected[CANDIDATE] = {state.candidate}
    for alias, versions in expected.items():
        current = seen.aliases.get(alias)
        if current not in versions:
            before = " or ".join(map(str, sorted(versions)))
            moved = "was removed" if current is None else f"was moved to version {current}"
            return f"the alias {alias} {moved} by hand; it was version {before}"
    return ""


def find_alarm(state: RolloutState, seen: Observation) -> str:
    """Return the reason for a rollback; empty if there is none."""
    for report in _reports_of(state, seen):
        if report.tripped:
            return f"{report.server} stopped using the candidate: {report.tripped}"
    threshold = alarm_threshold(state.policy)
    for name in ALARMS:
        value = seen.evidence.log_e[name]
        if value >= threshold:
            return (
                f"the candidate {_TITLES[name]} (evidence {_format_e(value)}, "
                f"limit {_format_e(threshold)})"
            )
    return ""


def alarm_threshold(policy: RolloutPolicy) -> float:
    """Return the log E at which a test rolls back: the kinds of events share alpha."""
    return log_threshold(policy.alpha, len(KINDS))


def list_missing(state: RolloutState, seen: Observation, now: float) -> list[str]:
    """Return the conditions of the next step that are not met, as noun phrases."""
    if state.phase is Phase.PREPARED:
        return _list_unprepared(state, seen)
    policy, evidence, proof = state.policy, seen.evidence, log_threshold(state.policy.alpha)
    missing = []
    remaining_s = policy.min_time_s - (now - state.step_at)
    if remaining_s > 0:
        missing.append(f"{remaining_s:.0f} s of the minimum time remain")
    if evidence.answers < policy.min_requests:
        missing.append(f"{evidence.answers} of {policy.min_requests} answers of the candidate")
    if evidence.log_e[LIMIT] < proof:
        missing.append(
            f"no proof yet that fewer than {policy.failure_limit:.2%} of its answers fail "
            f"(evidence {_format_e(evidence.log_e[LIMIT])} of {_format_e(proof)})"
        )
    if evidence.labels >= policy.min_labels and evidence.log_e[TOLERANCE] < proof:
        missing.append(
            f"no proof yet from {evidence.labels} labels that it loses less than "
            f"{policy.tolerance:.1%} of accuracy (evidence {_format_e(evidence.log_e[TOLERANCE])} "
            f"of {_format_e(proof)})"
        )
    return missing


def choose_slow_ms(policy: RolloutPolicy, model_ms: Sequence[float]) -> float | None:
    """Return the model time above which an answer is slow; None without enough answers.

    Args:
        policy: policy of the rollout, which may set it.
        model_ms: model times of recent answers of production.
    """
    if policy.slow_ms is not None:
        return policy.slow_ms
    if len(model_ms) < MIN_ANSWERS:
        return None
    return SLOW_FACTOR * sorted(model_ms)[int(SLOW_QUANTILE * len(model_ms))]


def check_startable(current: RolloutState | None, candidate: int, production: int) -> None:
    """Raise UserError if a rollout cannot begin.

    Args:
        current: last rollout of the model; None if there was none.
        candidate: version to roll out.
        production: version in Production.
    """
    if current is not None and not current.is_over:
        raise UserError(
            f"A rollout of {current.model} {current.candidate} is active: {current.name}. End it "
            f"first: eyevsai rollout abort {current.model}"
        )
    if candidate == production:
        raise UserError(f"Version {candidate} is in Production already. Choose another --version.")


def _reports_of(state: RolloutState, seen: Observation) -> list[ServerReport]:
    return [report for report in seen.servers if report.run == state.run_id]


def _find_load_failure(state: RolloutState, seen: Observation) -> str:
    for report in _reports_of(state, seen):
        if report.failure:
            return f"{report.server} could not load the candidate: {report.failure}"
    return ""


def _list_unprepared(state: RolloutState, seen: Observation) -> list[str]:
    missing = []
    if not seen.servers:
        missing.append("no server of this model reports to the inference log")
    loaded = {report.server for report in _reports_of(state, seen) if report.is_loaded}
    if waiting := [each.server for each in seen.servers if each.server not in loaded]:
        missing.append(f"the candidate is not loaded on {', '.join(waiting)}")
    if seen.slow_ms is None:
        missing.append(
            f"fewer than {MIN_ANSWERS} answers of production, which show when an answer is slow"
        )
    return missing


def _describe_next(state: RolloutState) -> str:
    position = state.position + 1
    if position == len(state.policy.shares):
        return "all steps have passed"
    return f"next step: {format_share(state.policy.shares[position])}"


def _format_e(log_e: float) -> str:
    """Return E as text, from its logarithm."""
    return f"{math.exp(log_e):.3g}" if log_e < 700 else f"e^{log_e:.0f}"
