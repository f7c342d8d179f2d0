"""Engines: calls in other processes, their results, their ends, and that nothing outlives them."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from eyevsai.engines.engine import State, Status, Task
from eyevsai.engines.local import LOG, LocalEngine
from eyevsai.errors import RunFailed
from eyevsai.stopping import Stop
from tests.conftest import ROOT

CALLS = "tests.unit.calls"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(folder: Path, *tasks: Task, at_once: int = 4, stop: Stop | None = None) -> dict[str, Status]:
    return LocalEngine(at_once).run(tasks, folder, lambda _: None, stop or Stop())


def task(name: str, function: str, timeout_s: float | None = None, **given: Any) -> Task:
    return Task(name, f"{CALLS}:{function}", given, timeout_s=timeout_s)


def are_gone(*pids: int) -> bool:
    """Whether processes end within a few seconds; those that are nobody's children are seen as zombies for a moment."""
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not [process for process in psutil.wait_procs(found, 5)[1] if process.status() != psutil.STATUS_ZOMBIE]


def test_results_and_failures_are_told_apart(tmp_path: Path) -> None:
    ended = run(
        tmp_path, task("two", "double", number=1), task("refused", "refuse", what="dog"), task("stumbled", "stumble"),
        task("killed", "die", signal=int(signal.SIGKILL)), task("four", "double", number=2),
    )  # fmt: skip
    assert (ended["two"].value, ended["four"].value) == (2, 4)
    assert {name: status.state for name, status in ended.items() if status.state is State.FAILED}.keys() == {
        "refused", "stumbled", "killed"
    }  # fmt: skip
    assert ended["refused"].reason == "no dog here"
    assert ended["stumbled"].reason == "KeyError: 'missing'"
    assert ended["killed"].reason == "was killed by SIGKILL; it last said: the last words"
    assert (tmp_path / "two" / LOG).read_text() == "doubling\n"


def test_no_more_run_at_once_than_asked_for(tmp_path: Path) -> None:
    most = []

    def watch(statuses: Mapping[str, Status]) -> None:
        most.append(sum(status.state is State.RUNNING for status in statuses.values()))

    LocalEngine(2).run([task(str(number), "double", number=number) for number in range(5)], tmp_path, watch, Stop())
    assert max(most) == 2


def test_what_a_job_leaves_running_ends_with_it(tmp_path: Path) -> None:
    ended = run(tmp_path, task("parent", "leave_child", seconds=60))
    assert ended["parent"].state is State.DONE
    assert are_gone(ended["parent"].value)


def test_a_job_that_takes_too_long_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyevsai.engines.engine.ENDING_S", 2.0)
    slow = task("slow", "sleep", timeout_s=15.0, seconds=600, file=str(tmp_path / "pids"), deaf=True)
    ended = run(tmp_path, slow, task("quick", "double", number=1))
    assert (ended["slow"].state, ended["slow"].reason) == (State.FAILED, "took longer than 15 s")
    assert ended["quick"].value == 2
    assert are_gone(*map(int, (tmp_path / "pids").read_text().split()))


def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    stop, pids = Stop(), tmp_path / "pids"

    def watch(_: Mapping[str, Status]) -> None:
        if pids.exists() and pids.read_text():
            stop.asked = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        LocalEngine(1).run([task("slow", "sleep", seconds=60, file=str(pids))], tmp_path, watch, stop)
    assert are_gone(*map(int, pids.read_text().split()))


def test_what_is_raised_while_watching_ends_all(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def watch(_: Mapping[str, Status]) -> None:
        if pids.exists() and pids.read_text():
            raise RunFailed("the store is gone")

    with pytest.raises(RunFailed, match="the store is gone"):
        LocalEngine(1).run([task("slow", "sleep", seconds=60, file=str(pids))], tmp_path, watch, Stop())
    assert are_gone(*map(int, pids.read_text().split()))
