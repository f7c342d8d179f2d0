"""Measurement of the cores that other processes use."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_all_cores_count_where_a_process_is_not_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS and Windows
    assert count_cores() == os.cpu_count()
