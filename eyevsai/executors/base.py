"""Executors, which run tasks in parallel. A task is an importable function and its arguments."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import UserError
from eyevsai.core.names import to_file_name

log = logging.getLogger("eyevsai")

POLL_S = 0.5
# from the termination of an overdue task until it is killed: time to finish its step, write a
# checkpoint and end its run
TERMINATE_S = 12.0
# for all tasks to end when the caller is terminated; one second less than the caller's own grace
# period, so that no task outlives it
KILL_S = 7.0


@dataclass(frozen=True)
class Task:
    """Function call that can be made in another process.

    `call` names an eyevsai function as "module:function". The function is called with `arguments`,
    a mapping of JSON-serializable values, and returns a JSON-serializable value.
    """

    name: str  # [A-Za-z0-9_.-]
    call: str
    arguments: Mapping[str, Any]
    cpus: int = 1
    gpus: float = 0.0
    timeout_s: float | None = None


class State(StrEnum):
    """Lifecycle state of a task."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """State of a task, its runtime in seconds, and its return value or the reason of failure."""

    state: State = State.QUEUED
    seconds: float = 0.0
    value: Any = None
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """True if the task is done or has failed."""
        return self.state in (State.DONE, State.FAILED)


OnUpdate = Callable[[Mapping[str, Status]], None]


class TaskHandle(ABC):
    """Handle of a submitted task."""

    def __init__(self, task: Task) -> None:
        self.task, self._stop_requested_at = task, math.inf

    def status(self) -> Status:
        """Return the current status, and enforce the timeout of the task.

        A task that exceeds its timeout is terminated, and killed if it still runs `TERMINATE_S`
        later. The reason of its failure is then the timeout.
        """
        status, limit_s = self.poll(), self.task.timeout_s
        if status.has_ended:
            overdue = self._stop_requested_at < math.inf and status.state is State.FAILED
            return replace(status, reason=f"took longer than {limit_s:g} s") if overdue else status
        if limit_s is not None and status.seconds > limit_s:
            self.request_stop()
        if time.monotonic() - self._stop_requested_at > TERMINATE_S:
            self.kill()
        return status

    def request_stop(self) -> None:
        """Terminate the task on the first call; a second signal would interrupt its shutdown."""
        if self._stop_requested_at == math.inf:
            self._stop_requested_at = time.monotonic()
            self.terminate()

    @abstractmethod
    def poll(self) -> Status:
        """Return the current status without enforcing the timeout."""

    @abstractmethod
    def terminate(self) -> None:
        """Request a graceful shutdown of the task."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the task and all processes that it started."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Wait until the task has ended, at most `seconds`."""


class Executor(ABC):
    """Executor of up to `max_workers` parallel tasks. A failed task does not affect the others."""

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers

    def run(
        self, tasks: Sequence[Task], folder: Path, on_update: OnUpdate, stop: CancellationToken
    ) -> dict[str, Status]:
        """Run all tasks and return the final status of each by its name.

        On a cancellation or any other exception, the running tasks are terminated, and killed if
        they do not end in time, before the exception propagates.

        Args:
            tasks: the tasks to run, with distinct names.
            folder: folder for local files, with a subfolder for each task.
            on_update: called with the status of all tasks, first before any task starts and then
                after each poll, every `POLL_S` seconds.
            stop: token that is checked after each poll.

        Raises:
            UserError: the executor is unavailable.
        """
        statuses, waiting = {task.name: Status() for task in tasks}, deque(tasks)
        running: dict[str, TaskHandle] = {}
        with self.connected(tasks):
            try:
                on_update(statuses)
                while waiting or running:
                    while waiting and len(running) < self.max_workers:
                        task = waiting.popleft()
                        running[task.name] = self.submit(task, folder / to_file_name(task.name))
                    statuses |= {name: job.status() for name, job in running.items()}
                    running = {
                        name: job for name, job in running.items() if not statuses[name].has_ended
                    }
                    on_update(statuses)
                    stop.check()
                    time.sleep(POLL_S)
            finally:
                _stop_all(list(running.values()))
        return statuses

    @contextmanager
    def connected(self, tasks: Sequence[Task]) -> Iterator[None]:  # noqa: ARG002
        """Hold the resources that `tasks` need while they run; none by default."""
        yield

    @abstractmethod
    def submit(self, task: Task, folder: Path) -> TaskHandle:
        """Start a task; `folder` is its own folder on this machine."""


def _stop_all(jobs: Sequence[TaskHandle]) -> None:
    """Terminate all tasks, wait for them up to `KILL_S` in total, and kill those that still run."""
    for job in jobs:
        job.request_stop()
    deadline = time.monotonic() + KILL_S
    for job in jobs:
        job.wait(max(0.1, deadline - time.monotonic()))
        job.kill()


def run_call(call: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call "module:function" and return {"value": its result} or {"reason": its error}.

    Errors are logged, except a lack of memory. KeyboardInterrupt and other exceptions that are not
    an `Exception` propagate.
    """
    module, _, function = call.partition(":")
    try:
        return {"value": getattr(import_module(module), function)(arguments)}
    except UserError as error:
        log.error("Error: %s", error)
        return {"reason": str(error)}
    except MemoryError as error:
        return {"reason": f"out of memory {error}"}
    except Exception as error:
        log.exception("Unexpected error, a bug in eyevsai; please report it")
        return {"reason": f"{type(error).__name__}: {error}"}
