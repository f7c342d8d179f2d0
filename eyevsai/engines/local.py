"""Processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from eyevsai.engines.engine import ENDING_S, POLL_S, Engine, State, Status, Task, Watch, make_call
from eyevsai.stopping import Stop

TASK, RESULT, LOG = "task.json", "result.json", "log.txt"


class LocalEngine(Engine):
    """So many processes at a time. Each is the first of a session, so that whatever it started ends with it."""

    def __init__(self, at_once: int, *, quiet: bool = True) -> None:
        self.at_once, self.quiet = at_once, quiet

    def run(self, tasks: Sequence[Task], folder: Path, watch: Watch, stop: Stop) -> dict[str, Status]:
        """See `Engine.run`."""
        statuses, waiting = {task.name: Status() for task in tasks}, deque(tasks)
        running: dict[str, _Process] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    task = waiting.popleft()
                    running[task.name] = _Process(task, folder / task.name, quiet=self.quiet)
                statuses |= {name: process.status() for name, process in running.items()}
                running = {name: process for name, process in running.items() if not statuses[name].has_ended}
                watch(statuses)
                stop.check()
                time.sleep(POLL_S)
        finally:
            _end_all(running.values())
        return statuses


class _Process:
    """A task in its process. Its folder has what is asked, what was said, and what came of it."""

    def __init__(self, task: Task, folder: Path, *, quiet: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
        (folder / TASK).write_text(json.dumps({"call": task.call, "given": dict(task.given)}), encoding="utf-8")
        self.task, self.folder = task, folder
        self.began_at, self.asked_at = time.monotonic(), float("inf")
        with open(folder / LOG, "w", encoding="utf-8") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "eyevsai", "work", str(folder)], stdin=subprocess.DEVNULL,
                stdout=said if quiet else None, stderr=said if quiet else None,
                env={**os.environ, "OMP_NUM_THREADS": str(task.cpus)}, start_new_session=True,
            )  # fmt: skip

    def status(self) -> Status:
        """How it stands; ends it when its time is up."""
        now, limit = time.monotonic(), self.task.timeout_s
        seconds = now - self.began_at
        if self.process.poll() is None:
            if limit is not None and seconds > limit:
                self.ask_to_end()
            if now - self.asked_at > ENDING_S:
                self.kill()
            return Status(State.RUNNING, seconds)
        self.kill()  # what it started
        if self.asked_at < float("inf"):
            return Status(State.FAILED, seconds, reason=self.task.overdue)
        result = self._read_result()
        if "value" in result:
            return Status(State.DONE, seconds, result["value"])
        return Status(State.FAILED, seconds, reason=result.get("reason") or self._describe_end())

    def ask_to_end(self) -> None:
        """Asks once; a second signal would tear what the first has begun."""
        if self.asked_at == float("inf"):
            self.asked_at = time.monotonic()
            self.process.terminate()

    def kill(self) -> None:
        """Ends all processes of its session that are left."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _read_result(self) -> dict[str, Any]:
        try:
            result: dict[str, Any] = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return result

    def _describe_end(self) -> str:
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "")
        return f"{how}; it last said: {last[:300]}" if last else how


def _end_all(processes: Iterable[_Process]) -> None:
    """Asks all to end, waits for them together, and kills what is left."""
    asked = list(processes)
    for process in asked:
        process.ask_to_end()
    deadline = time.monotonic() + ENDING_S
    for process in asked:
        with suppress(subprocess.TimeoutExpired):
            process.process.wait(max(0.1, deadline - time.monotonic()))
        process.kill()
        process.process.wait()


def work(folder: Path) -> int:
    """Makes the call that a task's folder describes and leaves there what came of it; returns the exit code."""
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    result = make_call(task["call"], task["given"])
    new = folder / f"{RESULT}.new"
    new.write_text(json.dumps(result), encoding="utf-8")
    new.replace(folder / RESULT)
    return 0 if "value" in result else 1
