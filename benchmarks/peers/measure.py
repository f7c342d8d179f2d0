"""Measurement of a process: its values, its duration, and the peak memory of its whole tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.2
RISE = 1.02  # of the resident memory, after which shared pages are counted at once
SHARE = 0.03  # of the time, at most, in which shared pages are counted otherwise
# without the pages of files, which the kernel can evict
PROPORTIONAL = ("Pss_Anon:", "Pss_Shmem:")
RESIDENT = ("RssAnon:", "RssShmem:")


@dataclass(frozen=True)
class Measurement:
    """Result of one process: numbers by metric, or why there are none."""

    values: dict[str, float] = field(default_factory=dict)
    error: str = ""


def measure(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    timeout_s: float,
    *,
    prints_values: bool = True,
) -> Measurement:
    """Run a process to its end; add `wall_s` and `peak_mib` to the values that it prints.

    The peak is that of the anonymous and shared memory of the process and its descendants; pages
    that several of them share are counted once.

    Args:
        command: the command.
        folder: working directory.
        env: environment variables.
        timeout_s: seconds after which the process is killed.
        prints_values: the command prints a JSON object as its last line. If False, only duration
            and memory are measured.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(env), stdout=output, stderr=errors, start_new_session=True
        )
        peak = _Peak(process.pid)
        peak.start()
        try:
            process.wait(timeout_s)
        except BaseException as error:  # also of Ctrl-C, which does not reach the new session
            for pid in [*descendants(process.pid), process.pid]:
                _kill(pid)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Measurement(error=f"not finished after {timeout_s:.0f} s")
        finally:
            seconds = time.perf_counter() - start
            peak.finish()
        output.seek(0)
        errors.seek(0)
        measured = {"wall_s": seconds, "peak_mib": peak.mib}
        if not prints_values and not process.returncode:
            return Measurement(measured)
        return parse(output.read(), errors.read(), process.returncode, measured)


def parse(output: str, errors: str, returncode: int, measured: Mapping[str, float]) -> Measurement:
    """Return the values that a script printed, or the last line of its error.

    Args:
        output: standard output.
        errors: standard error.
        returncode: exit code.
        measured: values that were measured from outside; printed ones precede.
    """
    for line in reversed(output.splitlines()):
        if line.startswith('{"values"') and not returncode:
            result = json.loads(line)
            return Measurement({**measured, **result["values"]})
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return Measurement(error=f"failed (exit code {returncode}): {(lines or ['no output'])[-1]}")


def descendants(pid: int) -> list[int]:
    """Return the process ids of the children of a process, and of theirs."""
    try:
        text = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return []
    children = [int(each) for each in text.split()]
    return [*children, *(each for child in children for each in descendants(child))]


class _Peak(threading.Thread):
    """Thread that samples the memory of a process tree.

    To count shared pages, the kernel walks through all pages, while the process waits for new ones.
    They are counted while the resident memory rises above its maximum, and otherwise so rarely that
    it takes at most `SHARE` of the time.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.mib = 0.0
        self._finished = threading.Event()

    def run(self) -> None:
        counted_mib, next_count = 0.0, 0.0
        while not self._finished.wait(POLL_S):
            pids = [self.pid, *descendants(self.pid)]
            resident_mib = sum(_read_mib(pid, "status", RESIDENT) for pid in pids)
            start = time.perf_counter()
            if resident_mib > RISE * counted_mib or start > next_count:
                mib = sum(_read_mib(pid, "smaps_rollup", PROPORTIONAL) for pid in pids)
                self.mib, counted_mib = max(self.mib, mib), max(counted_mib, resident_mib)
                end = time.perf_counter()
                next_count = end + (end - start) / SHARE

    def finish(self) -> None:
        self._finished.set()
        self.join()


def _read_mib(pid: int, name: str, fields: tuple[str, ...]) -> float:
    try:
        lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    except OSError:  # the process has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields)) / 1024


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
