from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from eyevsai.inference_log.store import LogStore
from eyevsai.registry.rollout_tag import TAG, RolloutTag
from eyevsai.serving.http import rollout_router
from eyevsai.serving.http.answers import Answer, NotReadyError
from eyevsai.serving.http.rollout_router import MAX_FAILURES, STATES, RolloutRouter
from eyevsai.serving.http.routing import RegistryState
from eyevsai.serving.http.versions import VersionTable
from eyevsai.serving.rollout_log import StoredRolloutLog

SPLIT = RolloutTag("run", 5, "split", 2_500, "ab", 8, 7, "run:1", 2_000.0)
OLD, NEW = SimpleNamespace(number=7), SimpleNamespace(number=8)
KEYS = [f"user-{number}" for number in range(400)]


class Server:
    """Router with versions that never predict, and the registry that it polls."""

    def __init__(self, log: StoredRolloutLog | None = None) -> None:
        self.table = VersionTable()
        self.registry = CollectorRegistry()
        metrics: Any = SimpleNamespace(model="pets", registry=self.registry)
        self.router = RolloutRouter(self.table, b"secret of servers", log, "server-a", metrics)
        self.load(production=OLD, candidate=NEW)

    def load(self, **versions: Any) -> None:
        self.table.assign(versions)

    def poll(self, tag: RolloutTag | str | None, production: int = 7) -> dict[str, int]:
        text = tag.to_json() if isinstance(tag, RolloutTag) else tag
        state = RegistryState({"production": production}, {} if text is None else {TAG: text})
        wanted = dict(self.router.wanted(state))
        self.router.apply(state)
        return wanted

    def arms(self) -> list[str]:
        return [self.router.route(key, "id").arm for key in KEYS]

    def answer(self, arm: str = "candidate", status: int = 500, total_s: float = 0.01) -> None:
        outcome: Any = SimpleNamespace() if status == 200 else None
        self.router.on_answer(
            Answer(
                id="1",
                at=0.0,
                model="pets",
                version=8,
                classes=(),
                arm=arm,
                step=SPLIT.step,
                outcome=outcome,
                status=status,
                error="" if status == 200 else "out of memory",
                total_s=total_s,
            )
        )

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"eyevsai_rollout_{name}", {"model": "pets"} | labels)


@pytest.fixture
def server() -> Server:
    return Server()


def test_keys_are_split_and_stay(server: Server) -> None:
    assert server.poll(SPLIT) == {"production": 7, "candidate": 8}
    arms = server.arms()
    assert 60 < arms.count("candidate") < 140
    assert arms == server.arms()
    route = next(
        route for key in KEYS if (route := server.router.route(key, "")).arm == "candidate"
    )
    assert (route.version, route.fallback, route.late_after_s, route.step) == (
        NEW,
        OLD,
        2.0,
        "run:1",
    )
    server.poll(replace(SPLIT, seq=6, share=5_000))
    more = server.arms()
    assert all(
        after == "candidate"
        for before, after in zip(arms, more, strict=True)
        if before == "candidate"
    )


def test_requests_without_a_key_are_split_by_their_id(server: Server) -> None:
    server.poll(SPLIT)
    arms = {server.router.route(None, f"id-{number}").arm for number in range(100)}
    assert arms == {"production", "candidate"}


@pytest.mark.parametrize(
    "tag",
    [
        None,
        "{",
        replace(SPLIT, mode="off", share=0),
        replace(SPLIT, mode="prepared", share=0),
        replace(SPLIT, version=9),  # not loaded
        replace(SPLIT, production=6),  # the alias was moved by hand
    ],
    ids=["none", "invalid", "off", "prepared", "not loaded", "alias moved"],
)
def test_production_answers_everything_in_doubt(server: Server, tag: Any) -> None:
    server.poll(tag)
    routes = [server.router.route(key, "") for key in KEYS]
    assert {(route.version.number, route.arm, route.step) for route in routes} == {
        (7, "production", "")
    }
    assert all(route.shadow is None for route in routes)


def test_shadow_gets_a_copy_of_each_image(server: Server) -> None:
    server.poll(replace(SPLIT, mode="shadow", share=0))
    route = server.router.route("user-1", "")
    assert (route.version, route.shadow, route.step) == (OLD, NEW, "run:1")


def test_lower_number_is_ignored(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.poll(SPLIT)
    for _ in range(3):
        server.poll(replace(SPLIT, seq=4, share=9_000))
    assert server.router.tag == SPLIT
    assert len([text for text in caplog.messages if "it is ignored" in text]) == 1
    server.poll(replace(SPLIT, seq=6, mode="off", share=0))
    assert set(server.arms()) == {"production"}


def test_five_failures_in_a_row_stop_the_candidate_at_once(server: Server) -> None:
    server.poll(SPLIT)
    for _ in range(MAX_FAILURES - 1):
        server.answer()
    server.answer(status=200)  # they must be in a row
    for _ in range(MAX_FAILURES - 1):
        server.answer()
        server.answer("production", 200)  # of other requests
    assert "candidate" in server.arms()
    assert server.gauge("share") == 0.25
    server.answer()
    assert set(server.arms()) == {"production"}
    assert server.gauge("share") == 0
    server.poll(replace(SPLIT, seq=6, share=5_000))  # another step of this rollout
    assert set(server.arms()) == {"production"}
    server.poll(replace(SPLIT, seq=7, run="another"))
    assert "candidate" in server.arms()


def test_failures_of_shadows_stop_them(server: Server) -> None:
    server.poll(replace(SPLIT, mode="shadow", share=0))
    for _ in range(MAX_FAILURES):
        server.answer("shadow")
    assert server.router.route("user-1", "").shadow is None


def test_late_answers_count_unless_production_is_as_late(server: Server) -> None:
    server.poll(SPLIT)
    server.answer("production", 200, total_s=3.0)  # an overloaded server
    for _ in range(MAX_FAILURES):
        server.answer(status=504)
    assert "candidate" in server.arms()
    server.answer("production", 200)
    for _ in range(MAX_FAILURES):
        server.answer(status=504)
    assert set(server.arms()) == {"production"}


def test_previous_version_stays_for_a_day(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    off = replace(SPLIT, mode="off", share=0)
    assert server.poll(off) == {"production": 7}  # rolled back
    assert server.poll(off, production=8) == {"production": 8, "previous": 7}
    monkeypatch.setattr(rollout_router, "KEEP_PREVIOUS_S", 0.0)
    assert server.poll(off, production=8) == {"production": 8}


def test_server_without_a_version_is_not_ready(server: Server) -> None:
    server.load()
    with pytest.raises(NotReadyError):
        server.router.route("user-1", "")


def test_server_reports_and_shows_state_and_evidence(tmp_path: Path) -> None:
    store = LogStore.open(f"sqlite:///{tmp_path / 'log.db'}")
    log = StoredRolloutLog(store)
    server = Server(log)
    server.poll(None)
    first = {"run": "", "seq": 0, "live_s": 60.0}
    assert log.read_servers("pets", 60) == [("server-a", first)]
    assert server.gauge("state", state="none") == 1
    lease = log.acquire_lease("rollout/pets", "me", 60)
    state = {"state": {"phase": "split", "hold": "held"}, "evidence": None}
    assert log.append_decision(lease, "rollout/pets", SPLIT.seq, "hold", state)
    log.report_server("controller", "pets", {"log_e": {"failed": 1.5}})
    server.poll(SPLIT)
    server.table.note_failure(8, "its checksums differ")
    for _ in range(MAX_FAILURES):
        server.answer()
    server.poll(SPLIT)
    _, report = log.read_servers("pets", 60)[1]
    assert report == {
        "run": "run",
        "seq": 5,
        "is_loaded": True,
        "failure": "its checksums differ",
        "tripped": "5 failures in a row, the last one: out of memory",
        "live_s": 60.0,
    }
    assert server.gauge("state", state="held") == 1
    assert sum(server.gauge("state", state=name) or 0 for name in STATES) == 1
    assert server.gauge("log_evidence", what="failed") == 1.5
    store.close()


def test_server_answers_while_the_log_is_unreachable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.db"
    path.mkdir()
    server = Server(StoredRolloutLog(LogStore(f"sqlite:///{path}")))
    server.poll(SPLIT)
    assert "candidate" in server.arms()
    assert "was not reported" in caplog.text
