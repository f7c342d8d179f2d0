"""Executor for processes on this machine."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.machine import describe_exit
from eyevsai.core.process_tree import kill_group, request_end, start_group
from eyevsai.executors.base import Executor, State, Status, Task, TaskHandle, run_call

log = logging.getLogger("eyevsai")

TASK, RESULT, LOG = "task.json", "result.json", "log.txt"


class LocalExecutor(Executor):
    """Executor that runs each task in a process that leads a group of its own.

    The processes that a task started are killed together with it.
    """

    def __init__(self, max_workers: int, *, quiet: bool = True) -> None:
        super().__init__(max_workers)
        self.quiet = quiet

    def submit(self, task: Task, folder: Path) -> TaskHandle:
        """Start a process for the task; if quiet, its output is written to `folder`."""
        return _Process(task, folder, quiet=self.quiet)


class _Process(TaskHandle):
    """Process of a task. Its folder contains the task, its result and its output."""

    def __init__(self, task: Task, folder: Path, *, quiet: bool) -> None:
        super().__init__(task)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
        (folder / TASK).write_text(
            json.dumps({"call": task.call, "arguments": dict(task.arguments)}), encoding="utf-8"
        )
        self.folder, self.began_at = folder, time.monotonic()
        log.debug("Starting a process for %s with its output in %s", task.name, folder / LOG)
        with open(folder / LOG, "w", encoding="utf-8") as output:
            self.process = start_group(
                [sys.executable, "-m", "eyevsai", "run-task", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output if quiet else None,
                stderr=output if quiet else None,
                env={**os.environ, "OMP_NUM_THREADS": str(task.cpus), "PYTHONIOENCODING": "utf-8"},
            )

    def poll(self) -> Status:
        """Return the state of the process, and the result of the task once the process has ended.

        Processes that the task started and that still run then are killed.
        """
        seconds = time.monotonic() - self.began_at
        if self.process.poll() is None:
            return Status(State.RUNNING, seconds)
        self.kill()  # processes that the task started may still run
        result = self._read_result()
        if "value" in result:
            return Status(State.DONE, seconds, result["value"])
        return Status(State.FAILED, seconds, reason=result.get("reason") or self._describe_end())

    def terminate(self) -> None:
        request_end(self.process)

    def kill(self) -> None:
        kill_group(self.process)

    def wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def _read_result(self) -> dict[str, Any]:
        try:
            result: dict[str, Any] = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return result

    def _describe_end(self) -> str:
        exit_reason = describe_exit(self.process.returncode)
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"{exit_reason}; last output: {last[:300]}" if last else exit_reason


def run_task(folder: Path) -> int:
    """Run the task of a folder, write its result into the folder, and return the exit code.

    The exit code is 0 if the call returned, else 1.
    """
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    result = run_call(task["call"], task["arguments"])
    write_atomically(folder / RESULT, json.dumps(result))
    return 0 if "value" in result else 1
