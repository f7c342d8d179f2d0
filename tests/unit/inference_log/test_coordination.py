"""Leases, decisions and what a rollout reads."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from eyevsai.inference_log.coordination import Coordination, Lease, StaleLeaseError
from eyevsai.inference_log.records import Label
from eyevsai.inference_log.store import LogStore
from tests.conftest import create_database
from tests.unit.inference_log.records import MODEL, make_answer, make_log


@pytest.fixture
def log(tmp_path: Path) -> Coordination:
    store, _ = make_log(tmp_path)
    return Coordination(store)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_log(request: pytest.FixtureRequest, tmp_path: Path) -> Coordination:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    if request.param == "postgresql":
        name = f"coordination_{time.monotonic_ns()}"
        url = create_database(request.getfixturevalue("postgres"), name)
    return Coordination(LogStore.open(url))


def set_clock_back(log: Coordination, seconds: float) -> None:
    """Move all times of leases and reports into the future, as if the clock had been set back."""
    with log.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE leases SET expires_at = expires_at + {seconds}")
        connection.exec_driver_sql(f"UPDATE servers SET at = at + {seconds}")


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


def test_lease_of_a_dead_owner_expires_although_the_clock_was_set_back(
    any_log: Coordination,
) -> None:
    dead = acquire(any_log, "dead", ttl_s=30.0)
    set_clock_back(any_log, 3600)
    for owner in ("a", "b"):  # processes that look once each, as from cron
        assert any_log.acquire_lease("rollout/digits", owner, 60.0) is None
    set_clock_back(any_log, -31)  # that is, 31 s pass
    assert acquire(any_log, "c").fence == dead.fence + 1
    with pytest.raises(StaleLeaseError):
        any_log.append_decision(dead, "rollout/digits", 1, "advance", {})


def test_owner_that_lives_keeps_its_lease_when_the_clock_is_set_back(
    any_log: Coordination,
) -> None:
    first = acquire(any_log, "a", ttl_s=30.0)
    set_clock_back(any_log, 3600)
    assert any_log.acquire_lease("rollout/digits", "b", 60.0) is None
    assert acquire(any_log, "a", ttl_s=60.0).fence == first.fence
    set_clock_back(any_log, -31)
    assert any_log.acquire_lease("rollout/digits", "b", 60.0) is None
    assert any_log.append_decision(first, "rollout/digits", 1, "advance", {})


def test_log_of_the_first_schema_is_upgraded(any_log: Coordination) -> None:
    lease = acquire(any_log, "a")
    with any_log.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE leases DROP COLUMN ttl_s")
        connection.exec_driver_sql("UPDATE log_schema SET version = 1")
    url = any_log.database.url.render_as_string(hide_password=False)
    for _ in range(2):
        store = LogStore(url)
        upgraded = Coordination(store)
        assert upgraded.acquire_lease("rollout/digits", "b", 60.0) is None
        assert acquire(upgraded, "a").fence == lease.fence
        store.close()


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


def test_report_of_a_server_that_polls_rarely_stays_for_its_own_time(
    any_log: Coordination,
) -> None:
    any_log.report_server("often", MODEL, {})
    any_log.report_server("rarely", MODEL, {"live_s": 900.0})
    set_clock_back(any_log, -300)  # that is, 300 s pass
    assert [name for name, *_ in any_log.read_servers(MODEL, 60.0)] == ["rarely"]
    set_clock_back(any_log, -700)
    assert any_log.read_servers(MODEL, 60.0) == []


def test_report_from_before_the_clock_was_set_back_does_not_count(any_log: Coordination) -> None:
    any_log.report_server("dead", MODEL, {})
    set_clock_back(any_log, 3600)
    any_log.report_server("alive", MODEL, {})
    assert [name for name, *_ in any_log.read_servers(MODEL, 60.0)] == ["alive"]


def test_servers_that_ended_long_ago_are_forgotten(any_log: Coordination) -> None:
    for name in ("old", "new"):
        any_log.report_server(name, MODEL, {})
        set_clock_back(any_log, -200_000)
    any_log.report_server("newest", MODEL, {})
    with any_log.database.reading() as connection:
        names = connection.exec_driver_sql("SELECT server_id FROM servers").scalars().all()
    assert names == ["newest"]


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
