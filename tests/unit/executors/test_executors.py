"""Executors run calls in other processes, report how each ended, and leave no process behind."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError
from eyevsai.executors import local
from eyevsai.executors.base import POLL_S, State, Status, Task
from eyevsai.executors.local import LOG, LocalExecutor
from tests.conftest import ROOT

CALLS = "tests.unit.executors.calls"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("eyevsai.executors.base.POLL_S", POLL_S / 5)


def run(
    folder: Path, *tasks: Task, max_workers: int = 4, stop: CancellationToken | None = None
) -> dict[str, Status]:
    return LocalExecutor(max_workers).run(
        tasks, folder, lambda _: None, stop or CancellationToken()
    )


def task(name: str, function: str, timeout_s: float | None = None, **given: Any) -> Task:
    return Task(name, f"{CALLS}:{function}", given, timeout_s=timeout_s)


def are_gone(*pids: int) -> bool:
    """Whether processes end within a few seconds; those that are nobody's children are seen as
    zombies for a moment.
    """
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not [
        process
        for process in psutil.wait_procs(found, 5)[1]
        if process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.processes("jobs end in each of the ways that a process can end, two at a time")
def test_jobs_are_told_apart_by_their_ends_and_are_no_more_than_asked_for(tmp_path: Path) -> None:
    most: list[int] = []

    def on_update(statuses: Mapping[str, Status]) -> None:
        most.append(sum(status.state is State.RUNNING for status in statuses.values()))

    tasks = [
        task("two", "double", number=1),
        task("refused", "refuse", what="dog"),
        task("stumbled", "stumble"),
        task("killed", "die", signal=int(signal.SIGKILL)),
        task("parent", "leave_child", seconds=60),
        task("four", "double", number=2),
    ]
    ended = LocalExecutor(2).run(tasks, tmp_path, on_update, CancellationToken())
    assert max(most) == 2
    assert (ended["two"].value, ended["four"].value) == (2, 4)
    assert {
        name: status.state for name, status in ended.items() if status.state is State.FAILED
    }.keys() == {"refused", "stumbled", "killed"}
    assert ended["refused"].reason == "no dog here"
    assert ended["stumbled"].reason == "KeyError: 'missing'"
    assert ended["killed"].reason == "was killed by SIGKILL; last output: the last words"
    assert (tmp_path / "two" / LOG).read_text() == "doubling\n"
    assert ended["parent"].state is State.DONE
    assert are_gone(ended["parent"].value)  # what a job leaves running ends with it


@pytest.mark.processes("a job that is deaf to SIGTERM, its child, and a job beside them")
def test_a_job_that_takes_too_long_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, look = tmp_path / "pids", local._Process.poll

    def look_later(process: local._Process) -> Status:
        """As if its time were up once it has begun."""
        status = look(process)
        began = pids.exists() and pids.read_text()
        return replace(status, seconds=status.seconds + 600) if began else status

    monkeypatch.setattr(local._Process, "poll", look_later)
    monkeypatch.setattr("eyevsai.executors.base.TERMINATE_S", 1.0)
    slow = task("slow", "sleep", timeout_s=500.0, seconds=900, file=str(pids), deaf=True)
    ended = run(tmp_path, slow, task("quick", "double", number=1))
    assert (ended["slow"].state, ended["slow"].reason) == (State.FAILED, "took longer than 500 s")
    assert ended["quick"].value == 2
    assert are_gone(*map(int, pids.read_text().split()))


def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    stop, pids = CancellationToken(), tmp_path / "pids"

    def on_update(_: Mapping[str, Status]) -> None:
        if pids.exists() and pids.read_text():
            stop.requested = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(1).run(
            [task("slow", "sleep", seconds=60, file=str(pids))], tmp_path, on_update, stop
        )
    assert are_gone(*map(int, pids.read_text().split()))


def test_what_is_raised_while_watching_ends_all(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def on_update(_: Mapping[str, Status]) -> None:
        if pids.exists() and pids.read_text():
            raise JobError("the store is gone")

    with pytest.raises(JobError, match="the store is gone"):
        LocalExecutor(1).run(
            [task("slow", "sleep", seconds=60, file=str(pids))],
            tmp_path,
            on_update,
            CancellationToken(),
        )
    assert are_gone(*map(int, pids.read_text().split()))
