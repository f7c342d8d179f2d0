"""Measurement of the cores that other processes use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from eyevsai.core.cores import STATISTICS, busy_cores, count_cores


@pytest.mark.skipif(not STATISTICS.is_file(), reason="no /proc/stat")
def test_a_busy_process_uses_a_core() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:1])
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert count_cores() == 1
        used = busy_cores(0.3)
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, allowed)
    assert used is not None
    assert 0.8 < used <= 1


@pytest.mark.skipif(not STATISTICS.is_file(), reason="no /proc/stat")
def test_threads_of_this_process_are_not_other_processes() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:1])
    has_ended = threading.Event()

    def spin() -> None:
        while not has_ended.is_set():
            pass

    thread = threading.Thread(target=spin)
    # the lowest of several: tests of other workers use the core, too
    try:
        thread.start()
        used = min(busy_cores(0.2) or 0.0 for _ in range(5))
    finally:
        has_ended.set()
        thread.join()
        os.sched_setaffinity(0, allowed)
    assert used < 0.7


def test_all_cores_count_where_a_process_is_not_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS and Windows
    assert count_cores() == os.cpu_count()
