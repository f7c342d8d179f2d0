"""Guard and report of the suite: which tests start processes, and which take long.

A test starts a process only for what a process alone shows: signals, exit codes after a kill,
import isolation, races, `mlflow run` itself. During its call phase (fixtures excluded) a test
without the marker `slow` fails when it starts more than one, unless `@pytest.mark.processes("why")`
says why.
"""

from __future__ import annotations

import multiprocessing.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn")
# no interpreter: they end in milliseconds
CHEAP = {"git", "xargs", "mount", "umount", "fc-list", "uname", "ldconfig"}
LONG_S = 10.0  # of CPU time

# programs that the running test has started; None outside of a call phase
started: list[str] | None = None
owner = os.getpid()


def note_start(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: note a program that this process starts, by a short name."""
    if started is None or event not in STARTS or os.getpid() != owner:
        return
    program = os.fsdecode(arguments[0]) if arguments else event
    if Path(program).name not in CHEAP:
        started.append(Path(program).name)


def note_spawn(path: Any, arguments: Any, passfds: Any) -> int:
    """Note what multiprocessing's `spawn` and `forkserver` start, for which there is no audit
    event.
    """
    if started is not None and b"resource_tracker" not in b" ".join(map(os.fsencode, arguments)):
        started.append("multiprocessing")
    return int(spawn(path, arguments, passfds))


spawn = multiprocessing.util.spawnv_passfds


def pytest_configure(config: pytest.Config) -> None:
    """Install the hooks, once in each worker."""
    sys.addaudithook(note_start)
    multiprocessing.util.spawnv_passfds = note_spawn


def cpu_s() -> float:
    """CPU time of this process, its ended children, and those that run."""
    usage = os.times()
    total = usage.user + usage.system + usage.children_user + usage.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            total += sum(child.cpu_times()[:2])
        except psutil.Error:
            continue
    return total


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Count what a test starts; fail it when that is too much."""
    global started  # noqa: PLW0603
    started = []
    try:
        yield
    finally:
        programs, started = started, None
        if programs:
            item.user_properties.append(
                ("programs", len([name for name in programs if name not in STARTS]))
            )
    allowed = item.get_closest_marker("slow") or item.get_closest_marker("processes")
    if len(programs) > 1 and not allowed:
        pytest.fail(
            f"The test started {len(programs)} processes ({', '.join(programs[:5])}). Call the "
            "command with the "
            'fixture `eyevsai`, or mark the test with @pytest.mark.processes("why").',
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[bool]:
    """Measure the CPU time of a test with its fixtures."""
    item.stash[BEGAN] = cpu_s()
    return (yield)


BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Report the CPU time with the teardown: properties of a later phase reach the controller."""
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu_s", cpu_s() - item.stash[BEGAN]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List tests over LONG_S of CPU time, and count those that started processes."""
    long, starting, total = [], 0, 0.0
    for reports in terminalreporter.stats.values():
        for report in reports:
            properties = dict(getattr(report, "user_properties", ()))
            if getattr(report, "when", "") == "teardown" and "cpu_s" in properties:
                starting += properties.get("programs", 0) > 0
                total += properties["cpu_s"]
                long += (
                    [(properties["cpu_s"], report.nodeid)] if properties["cpu_s"] > LONG_S else []
                )
    if starting or long:
        terminalreporter.section("processes and long tests")
    if starting:
        terminalreporter.write_line(
            f"{starting} tests started a program (forks aside); {total:.0f} s of CPU time in all"
        )
    for seconds, name in sorted(long, reverse=True):
        terminalreporter.write_line(f"{seconds:6.1f} s of CPU time: {name}")
