"""Groups of child processes: how they end, whatever their processes do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from eyevsai.core.process_tree import (
    end_group,
    find_descendants,
    find_parent,
    kill_group,
    request_end,
    start_group,
    terminate_this_process,
    wait_for_end,
)

SLEEP = "import time; time.sleep(60)"
# prints the id of its child, which prints that of its own
TREE = (
    "import subprocess, sys; depth = int(sys.argv[2]); "
    "child = [sys.executable, '-c', sys.argv[1], sys.argv[1], str(depth - 1)]; "
    "process = subprocess.Popen(child) if depth else None; "
    "print(process.pid if process else 'ready', flush=True); "
    "import time; time.sleep(60 * (sys.argv[3:] != ['end']))"
)
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
    f"{SLEEP}"
)


@contextmanager
def group(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start Python code as the leader of a group, which is killed after the block."""
    command = [sys.executable, "-c", code, *words]
    process = start_group(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        kill_group(process)


@contextmanager
def tree(*words: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a process with a child and a grandchild; yield the first and the ids of the others."""
    with group(TREE, TREE, "2", *words) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(3)]
        yield process, [int(line) for line in lines if line != "ready"]


def have_ended(pids: list[int]) -> bool:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    alive = psutil.wait_procs(processes, 5)[1]
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_descendants_are_found_at_any_depth() -> None:
    with tree() as (process, pids):
        assert sorted(each.pid for each in find_descendants(process.pid)) == sorted(pids)
        assert process.pid in [each.pid for each in find_descendants(os.getpid())]
    assert find_descendants(process.pid) == []


def test_younger_parent_has_no_older_children(monkeypatch: pytest.MonkeyPatch) -> None:
    with tree() as (process, (child, grandchild)):
        # as if the id of the child were that of an ended parent, which the child got later
        times = {grandchild: psutil.Process(child).create_time() - 1}
        create_time = psutil.Process.create_time
        monkeypatch.setattr(
            psutil.Process, "create_time", lambda self: times.get(self.pid) or create_time(self)
        )
        assert [each.pid for each in find_descendants(process.pid)] == [child]


@pytest.mark.parametrize("words", [(), ("end",)], ids=["leader runs", "leader has ended"])
def test_whole_group_is_killed(words: tuple[str, ...]) -> None:
    with tree(*words) as (process, pids):
        if words:
            assert process.wait(10) == 0
        kill_group(process)
        assert process.returncode == (0 if words else -signal.SIGKILL)
        assert have_ended(pids)


def test_processes_that_outlive_their_leader_are_killed_at_once() -> None:
    with tree() as (process, pids):
        began = time.monotonic()
        end_group(process, grace_s=30)
        assert process.returncode == -signal.SIGTERM
        assert have_ended(pids)
        assert time.monotonic() - began < 10


def test_group_that_ignores_the_request_is_killed_after_the_grace_period() -> None:
    with group(STUBBORN) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end_group(process, grace_s=0.3)
        assert process.returncode == -signal.SIGKILL


def test_request_reaches_the_leader_only() -> None:
    with tree() as (process, pids):
        request_end(process)
        assert process.wait(10) == -signal.SIGTERM
        assert all(psutil.Process(pid).is_running() for pid in pids)


def test_group_has_no_part_in_the_signals_of_a_terminal() -> None:
    with group(SLEEP) as process:
        assert os.getpgid(process.pid) == process.pid != os.getpgrp()


def test_wait_returns_the_exit_code() -> None:
    with group("import sys; sys.exit(7)") as process:
        assert wait_for_end(process) == 7


def test_wait_can_be_interrupted() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
    try:
        with group(SLEEP) as process:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                wait_for_end(process)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


def test_a_thread_terminates_its_process_by_the_handler_of_the_main_thread() -> None:
    handled: list[bool] = []
    before = signal.signal(
        signal.SIGTERM,
        lambda *_: handled.append(threading.current_thread() is threading.main_thread()),
    )
    try:
        thread = threading.Thread(target=terminate_this_process)
        thread.start()
        thread.join()
        deadline = time.monotonic() + 5
        while not handled and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handled == [True]


def test_parent_is_the_process_that_started_this_one() -> None:
    code = "from eyevsai.core.process_tree import find_parent; print(find_parent().pid)"
    with group(code) as process:
        assert process.communicate(timeout=30)[0] == f"{os.getpid()}\n"
    assert find_parent().pid == os.getppid()
