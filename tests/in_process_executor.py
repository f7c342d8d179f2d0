"""An executor that runs each call in the test's process, one after another."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from eyevsai.executors.base import Executor, State, Status, Task, TaskHandle, run_call
from eyevsai.executors.local import LOG


class InProcessExecutor(Executor):
    """Replaces LocalExecutor, whose processes are tested in
    tests/unit/executors/test_executors.py.
    """

    def submit(self, task: Task, folder: Path) -> TaskHandle:
        """Run the call and write its output to the file that LocalExecutor uses."""
        folder.mkdir(parents=True, exist_ok=True)
        with (
            open(folder / LOG, "w", encoding="utf-8") as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            return _Done(task, run_call(task.call, task.arguments))


class _Done(TaskHandle):
    """A task that has ended."""

    def __init__(self, task: Task, result: dict[str, Any]) -> None:
        super().__init__(task)
        done = "value" in result
        state = State.DONE if done else State.FAILED
        self.ended = Status(state, 0.1, result.get("value"), result.get("reason", ""))

    def poll(self) -> Status:
        return self.ended

    def terminate(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        pass
