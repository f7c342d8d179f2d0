"""Leases, decisions and what a rollout reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eyevsai.inference_log.coordination import Coordination, Lease, StaleLeaseError
from eyevsai.inference_log.records import Label
from tests.unit.inference_log.records import MODEL, make_answer, make_log


@pytest.fixture
def log(tmp_path: Path) -> Coordination:
    store, _ = make_log(tmp_path)
    return Coordination(store)


def acquire(log: Coordination, owner: str, ttl_s: float = 60.0) -> Lease:
    lease = log.acquire_lease("rollout/digits", owner, ttl_s)
    assert lease is not None
    return lease


def test_one_owner_holds_a_lease(log: Coordination) -> None:
    first = acquire(log, "a")
    assert log.acquire_lease("rollout/digits", "b", 60.0) is None
    assert acquire(log, "a").fence == first.fence
    log.release_lease(first)
    assert acquire(log, "b").fence == first.fence + 1


def test_expired_lease_is_taken_over(log: Coordination) -> None:
    first = acquire(log, "a", ttl_s=-1.0)
    second = acquire(log, "b")
    assert second.fence == first.fence + 1
    with pytest.raises(StaleLeaseError):
        log.append_decision(first, "rollout/digits", 1, "advance", {})
    assert log.append_decision(second, "rollout/digits", 1, "advance", {"share": 100})
    log.release_lease(first)  # that of another owner stays
    assert log.acquire_lease("rollout/digits", "a", 60.0) is None


def test_decision_is_stored_once(log: Coordination) -> None:
    lease = acquire(log, "a")
    assert log.append_decision(lease, "t", 1, "advance", {"share": 100})
    assert not log.append_decision(lease, "t", 1, "roll back", {})
    assert log.append_decision(lease, "t", 2, "hold", {})
    decisions = log.read_decisions("t")
    assert [(each.seq, each.kind, each.fence) for each in decisions] == [
        (1, "advance", lease.fence),
        (2, "hold", lease.fence),
    ]
    assert decisions[0].content == {"share": 100}
    assert log.read_decisions("t", after=1) == decisions[1:]


def test_lease_of_nobody_decides_nothing(log: Coordination) -> None:
    lease = acquire(log, "a")
    with pytest.raises(StaleLeaseError):
        log.append_decision(replace(lease, fence=9), "t", 1, "advance", {})
    assert log.read_decisions("t") == []


def test_servers_report(log: Coordination) -> None:
    log.report_server("s1", MODEL, {"loaded": [1]})
    log.report_server("s1", MODEL, {"loaded": [1, 2]})
    log.report_server("s2", "other", {})
    ((name, _, content),) = log.read_servers(MODEL, 60.0)
    assert (name, content) == ("s1", {"loaded": [1, 2]})
    assert log.read_servers(MODEL, -1.0) == []


def test_answers_of_a_rollout_are_read(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 3)
    log = Coordination(store)
    production = make_answer(step="r:1", key_hash="k")
    shadow = make_answer(step="r:1", arm="shadow", shadow_of=production.id, version=2)
    failed = make_answer(step="r:2", status="failed", label=None)
    store.add_answers([production, shadow, failed])
    rows = list(log.read_rollout_answers(MODEL, ["r:1", "r:2"]))
    assert rows[0] == (production.id, "r:1", "production", "k", "ok", 9.5, None, "zero", None)
    assert [row[4] for row in rows] == ["ok", "ok", "failed"]
    assert rows[1][-1] == production.id
    store.add_labels([Label(production.id, "one", "person"), Label(production.id, "two", "rule")])
    assert list(log.read_rollout_labels(MODEL, ["r:1"])) == [(production.id, "one")]
    assert list(log.read_rollout_labels(MODEL, ["r:2"])) == []
    assert log.recent_model_ms(MODEL, 1) == [9.5] * 4
    assert log.recent_model_ms(MODEL, 1, count=2) == [9.5] * 2
