"""CPU cores of this machine, and their use by other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

STATISTICS = Path("/proc/stat")
IDLE_COLUMNS = slice(
    3, 5
)  # idle and waiting for a disk; the last two columns are contained in others
COLUMNS = 8


def busy_cores(seconds: float = 0.1) -> float | None:
    """Return the number of cores that other processes use.

    The time of this process is not counted: threads of OpenMP are busy for a while after their
    work. Only the cores on which this process may run are counted. The result is None where the
    operating system does not have the numbers in `/proc/stat`.

    Args:
        seconds: duration of the measurement, during which the call sleeps.
    """
    if not STATISTICS.is_file():
        return None
    before, own_s, start = _read_times(), time.process_time(), time.perf_counter()
    time.sleep(seconds)
    after = _read_times()
    own = (time.process_time() - own_s) / (time.perf_counter() - start)
    shares = []
    for name in before.keys() & after.keys():
        spent = [new - old for new, old in zip(after[name], before[name], strict=True)]
        shares.append(1 - sum(spent[IDLE_COLUMNS]) / sum(spent) if sum(spent) > 0 else 0.0)
    return max(0.0, sum(shares) - own)


def _read_times() -> dict[str, list[int]]:
    """Return the clock ticks by kind of use, of each core that this process may use."""
    own = {f"cpu{number}" for number in _own_cores()}
    rows = (line.split() for line in STATISTICS.read_text(encoding="ascii").splitlines())
    return {row[0]: [int(ticks) for ticks in row[1 : COLUMNS + 1]] for row in rows if row[0] in own}


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(_own_cores())


def _own_cores() -> Collection[int]:
    """Return the numbers of the CPU cores that this process may use; all where it is unknown."""
    if hasattr(os, "sched_getaffinity"):
        cores: Collection[int] = os.sched_getaffinity(0)
        return cores
    return range(os.cpu_count() or 1)
