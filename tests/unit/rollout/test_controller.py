"""A controller that another one overtakes while it looks at the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from eyevsai.core.errors import JobError
from eyevsai.inference_log.store import LogStore
from eyevsai.rollout.controller import Controller
from eyevsai.rollout.evidence import Evidence
from eyevsai.rollout.log import Decision
from eyevsai.rollout.policy import RolloutPolicy
from eyevsai.rollout.state import Event, Kind, Phase, RolloutState, transition
from eyevsai.serving.rollout_log import StoredRolloutLog

TOPIC = "rollout/pets"
POLICY = RolloutPolicy(plan="50", slow_ms=50.0)
FIRST = RolloutState("pets", "run0run0", 8, 7, "ab", POLICY, 0.0, 0.0)
PROMOTING = transition(transition(FIRST, Event(Kind.ADVANCE), 0.0), Event(Kind.ADVANCE), 0.0)


class Registry:
    """Registry in which all is written; `on_read` is called when the aliases are read."""

    def __init__(self) -> None:
        self.promoted: list[int] = []
        self.on_read: Callable[[], None] = lambda: None

    def aliases(self) -> Mapping[str, int]:
        self.on_read()
        return {"production": 7, "candidate": 8}

    def applied_seq(self, run_id: str) -> int:
        return 1_000

    def tag_seq(self) -> int:
        return 0

    def create_run(self, version: int) -> str:
        return FIRST.run_id

    def ensure_tag(self, state: RolloutState) -> None:
        pass

    def logged_requests(self, run_id: str) -> int:
        return 0

    def log_evidence(self, state: RolloutState, evidence: Evidence, at: float) -> None:
        pass

    def apply(self, state: RolloutState, pending: Sequence[Decision]) -> None:
        pass

    def promote(self, state: RolloutState) -> str:
        self.promoted.append(state.candidate)
        return ""


def store_decision(log: StoredRolloutLog, state: RolloutState, owner: str) -> None:
    lease = log.acquire_lease(TOPIC, owner, 30.0)
    content = {"state": state.to_json(), "evidence": None}
    assert log.append_decision(lease, TOPIC, state.seq, "any", content)
    log.release_lease(lease)


def test_controller_promotes(tmp_path: Path) -> None:
    log, registry = StoredRolloutLog(LogStore.open(f"sqlite:///{tmp_path / 'log.db'}")), Registry()
    store_decision(log, PROMOTING, "another")
    state = Controller("pets", log, registry).step().state
    assert state is not None
    assert (state.phase, registry.promoted) == (Phase.PROMOTED, [8])


def test_overtaken_controller_does_not_promote_again(tmp_path: Path) -> None:
    """The promotion could have been undone by a person meanwhile."""
    log, registry = StoredRolloutLog(LogStore.open(f"sqlite:///{tmp_path / 'log.db'}")), Registry()
    store_decision(log, PROMOTING, "another")
    controller = Controller("pets", log, registry)

    def overtake() -> None:
        log.release_lease(controller._lease)  # as if it had expired
        store_decision(log, transition(PROMOTING, Event(Kind.PROMOTED), 1.0), "another")

    registry.on_read = overtake
    with pytest.raises(JobError, match="decided on the rollout of pets meanwhile"):
        controller.step()
    assert registry.promoted == []


def test_server_that_polls_every_two_minutes_does_not_hold_up_a_rollout(tmp_path: Path) -> None:
    store = LogStore.open(f"sqlite:///{tmp_path / 'log.db'}")
    log, registry = StoredRolloutLog(store), Registry()
    store_decision(log, FIRST, "another")
    report = {"run": FIRST.run_id, "seq": FIRST.seq, "is_loaded": True, "live_s": 360.0}
    log.report_server("server-a", "pets", report)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE servers SET at = at - 110")
    assert Controller("pets", log, registry).step().decided == ("advance",)
