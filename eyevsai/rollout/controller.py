"""Controller of a rollout. Any number may run; one at a time decides.

A decision is stored first, under a lease with a fencing number, and then written to the registry,
the audit log and the run. All these writes are repeatable, so that the next controller completes
what an interrupted one has left.
"""

from __future__ import annotations

import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from eyevsai.core.errors import JobError
from eyevsai.registry.rollout_tag import FULL_SHARE
from eyevsai.rollout.counts import count_answers
from eyevsai.rollout.decision import (
    LIVE_S,
    Observation,
    ServerReport,
    check_startable,
    choose_slow_ms,
    decide,
)
from eyevsai.rollout.evidence import Evidence, compute_evidence
from eyevsai.rollout.log import Decision, RolloutLog, RolloutRegistry
from eyevsai.rollout.state import Event, Kind, Phase, RolloutState, transition

log = logging.getLogger("eyevsai")

# A controller that is killed delays the next decision by this time at most.
LEASE_S = 30.0
PROMOTION_S = 600.0  # for which the lease is held while a version is checked and promoted
PATIENCE_S, PAUSE_S = 20.0, 0.2  # of a command that waits for the lease
MIN_GROWTH = 1.02  # of the number of requests between two points of the curves
CONTROLLER = "controller"  # id of the report with the evidence, among those of servers


@dataclass(frozen=True)
class StepResult:
    """Result of one look at a rollout."""

    state: RolloutState | None  # None if the model never had a rollout
    decided: tuple[str, ...] = ()  # kinds of the decisions that were made
    is_leader: bool = True  # False if another controller holds the lease
    observation: Observation | None = None


class Controller:
    """Controller of the rollouts of one registered model.

    Args:
        model: name of the registered model.
        rollout_log: database of decisions and answers.
        registry: writes of a decision.
        clock: returns the time in seconds since 1970.
    """

    def __init__(
        self,
        model: str,
        rollout_log: RolloutLog,
        registry: RolloutRegistry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model, self._log, self._registry, self._clock = model, rollout_log, registry, clock
        self._topic = f"rollout/{model}"
        self._owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._lease: Any = None  # of the last acquisition

    def read_decisions(self) -> list[Decision]:
        """Return all decisions about the model, oldest first."""
        return list(self._log.read_decisions(self._topic))

    def read(self) -> RolloutState | None:
        """Return the state of the current or last rollout; None if there was none."""
        decisions = self.read_decisions()
        return state_of(decisions[-1]) if decisions else None

    def start(self, state: RolloutState) -> RolloutState:
        """Start a rollout and return its state.

        Args:
            state: first state, still without a run and a number.

        Raises:
            UserError: another rollout is active.
            JobError: another controller holds the lease.
        """
        with self._leading():
            current = self._completed()
            check_startable(current, state.candidate, state.production)
            # the tag too, because the log may be a new one
            last = max(0 if current is None else current.seq, self._registry.tag_seq())
            run_id = self._registry.create_run(state.candidate)
            state = replace(state, run_id=run_id, seq=last + 1)
            self._append(state, Kind.START, None)
            self._write(state)
        return state

    def submit(self, event: Event) -> RolloutState | None:
        """Apply the event of a person, and return the new state; None without a rollout.

        Raises:
            UserError: the event is not possible in this state.
            JobError: another controller holds the lease.
        """
        with self._leading():
            state = self._completed()
            if state is None:
                return None
            return self._decide(state, event, self.observe(state))

    def step(self) -> StepResult:
        """Complete the last decision, look at the evidence, and decide if it suffices."""
        if not self._acquire(LEASE_S):
            return StepResult(self.read(), is_leader=False)
        try:
            return self._step()
        finally:
            self._log.release_lease(self._lease)

    def observe(self, state: RolloutState, *, is_applied: bool = True) -> Observation:
        """Return what is known about a rollout now.

        Args:
            state: state of the rollout.
            is_applied: the registry agrees with the last decision.
        """
        slow_ms = state.slow_ms
        if slow_ms is None:
            model_ms = self._log.recent_model_ms(self.model, state.production)
            slow_ms = choose_slow_ms(state.policy, model_ms)
        servers = tuple(
            ServerReport.from_json(server, content)
            for server, content in self._log.read_servers(self.model, LIVE_S)
            if server != CONTROLLER
        )
        return Observation(
            self._compute_evidence(state), servers, slow_ms, self._registry.aliases(), is_applied
        )

    def _acquire(self, ttl_s: float) -> bool:
        """Acquire or extend the lease; return False while another controller holds it."""
        lease = self._log.acquire_lease(self._topic, self._owner, ttl_s)
        self._lease = lease or self._lease
        return lease is not None

    def _step(self) -> StepResult:
        state, seen = self.read(), None
        decided: list[str] = []
        while state is not None:
            seen = self._look(state)
            event = None if seen is None else decide(state, seen, self._clock())
            if event is None and state.phase is Phase.PROMOTING and not state.hold:
                event = self._promote(state)
            if event is None:
                break
            state = self._decide(state, event, seen)
            decided.append(str(event.kind))
        return StepResult(state, tuple(decided), observation=seen)

    def _look(self, state: RolloutState) -> Observation | None:
        """Complete the last decision, and return an observation; None if the rollout is over.

        An alias that was moved by hand is noticed before the decision is completed, which would
        move it back.
        """
        is_applied = self._registry.applied_seq(state.run_id) >= state.seq
        if state.is_over:
            if not is_applied:
                self._write(state)
            return None
        self._registry.ensure_tag(state)
        seen = self.observe(state, is_applied=is_applied)
        if not is_applied and decide(state, seen, self._clock()) is None:
            self._write(state)
        self._publish(state, seen.evidence)
        return seen

    def _write(self, state: RolloutState) -> None:
        """Write the decisions of a rollout that the registry does not have yet."""
        applied = self._registry.applied_seq(state.run_id)
        pending = [
            decision
            for decision in self._log.read_decisions(self._topic, applied)
            if state_of(decision).run_id == state.run_id
        ]
        self._registry.apply(state, pending)

    def _completed(self) -> RolloutState | None:
        """Return the current state, after its decision has been completed."""
        state = self.read()
        if state is not None and self._registry.applied_seq(state.run_id) < state.seq:
            self._write(state)
        return state

    def _publish(self, state: RolloutState, evidence: Evidence) -> None:
        """Log the evidence on the run if requests have come, and report it to the servers."""
        self._log.report_server(CONTROLLER, self.model, evidence.to_json())
        before = self._registry.logged_requests(state.run_id)
        if evidence.requests > before * MIN_GROWTH:
            self._registry.log_evidence(state, evidence, self._clock())

    def _promote(self, state: RolloutState) -> Event:
        # the lease may have expired since the state was read
        if not self._acquire(PROMOTION_S) or self._log.read_decisions(self._topic, state.seq):
            raise self._overtaken()
        if refusal := self._registry.promote(state):
            return Event(Kind.HOLD, f"the promotion was refused: {refusal}")
        return Event(Kind.PROMOTED, "all steps have passed")

    def _decide(self, state: RolloutState, event: Event, seen: Observation | None) -> RolloutState:
        """Store the decision on an event, write it, and return the new state."""
        after = transition(state, event, self._clock())
        self._append(after, event.kind, seen)
        log.info("Rollout of %s %d: %s. %s", self.model, after.candidate, after.name, after.reason)
        self._write(after)
        return after

    def _append(self, state: RolloutState, kind: Kind, seen: Observation | None) -> None:
        """Store a decision; raise JobError if another controller was faster."""
        # this may have taken longer than the lease; its number proves that nobody else decided
        is_leader = self._acquire(LEASE_S)
        evidence = None if seen is None else seen.evidence.to_json()
        content = {"state": state.to_json(), "evidence": evidence}
        if not is_leader or not self._log.append_decision(
            self._lease, self._topic, state.seq, str(kind), content
        ):
            raise self._overtaken()

    def _overtaken(self) -> JobError:
        return JobError(
            f"Another controller decided on the rollout of {self.model} meanwhile. Try again."
        )

    def _compute_evidence(self, state: RolloutState) -> Evidence:
        """Return the evidence of all steps so far, by a replay of the log."""
        steps, policy = state.steps, state.policy
        shares = dict(zip(steps, policy.shares, strict=False))
        labels = self._log.read_labels(self.model, steps) if steps else {}
        answers = self._log.read_answers(self.model, steps) if steps else ()
        counts = count_answers(
            answers,
            labels,
            {step: share / FULL_SHARE for step, share in shares.items()},
            slow_ms=state.slow_ms,
            late_ms=policy.late_ms,
        )
        return compute_evidence(
            counts,
            failure_limit=policy.failure_limit,
            tolerance=policy.tolerance,
            expected_disagreement=state.expected_disagreement,
        )

    @contextmanager
    def _leading(self) -> Iterator[None]:
        """Hold the lease inside the block, and wait for it while another controller decides.

        Raises:
            JobError: another controller holds it for too long.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not self._acquire(LEASE_S):
            if time.monotonic() > deadline:
                raise JobError(
                    f"Another controller has been deciding on {self.model} for {PATIENCE_S:g} s. "
                    "Try again in a minute."
                )
            time.sleep(PAUSE_S)
        try:
            yield
        finally:
            self._log.release_lease(self._lease)


def state_of(decision: Decision) -> RolloutState:
    """Return the state after a decision."""
    return RolloutState.from_json(decision.content["state"])
