"""Executors run tasks in parallel; a task is an importable function and its arguments."""

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

log = logging.getLogger("eyevsai")

POLL_S = 0.5
# that a job has which took too long: for its step, its checkpoint and the end of its run
TERMINATE_S = 12.0
# that all have when their caller is asked to end, which has a second more and must see them gone
KILL_S = 7.0


@dataclass(frozen=True)
class Task:
    """A call that can be made in another process.

    `call` is a function of ours as "module:function". It takes `given`, plain values, and returns
    plain values.
    """

    name: str  # [A-Za-z0-9_.-]
    call: str
    given: Mapping[str, Any]
    cpus: int = 1
    gpus: float = 0.0
    timeout_s: float | None = None


class State(StrEnum):
    """How far a task is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """How a task stands: how long it has run, what its call returned, or why it failed."""

    state: State = State.QUEUED
    seconds: float = 0.0
    value: Any = None
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in (State.DONE, State.FAILED)


OnUpdate = Callable[[Mapping[str, Status]], None]


class TaskHandle(ABC):
    """A task that was begun somewhere."""

    def __init__(self, task: Task) -> None:
        self.task, self._stop_requested_at = task, math.inf

    def status(self) -> Status:
        """How it stands; when its time is up it is asked to end, and ended if it does not."""
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
        """Asks once; a second signal would tear what the first has begun."""
        if self._stop_requested_at == math.inf:
            self._stop_requested_at = time.monotonic()
            self.terminate()

    @abstractmethod
    def poll(self) -> Status:
        """How it stands by itself."""

    @abstractmethod
    def terminate(self) -> None:
        """Asks it to end as it likes to."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it and all that it started."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Waits so long for its end."""


class Executor(ABC):
    """Runs so many tasks at a time, side by side. What happens to one leaves the others running."""

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers

    def run(
        self, tasks: Sequence[Task], folder: Path, on_update: OnUpdate, stop: CancellationToken
    ) -> dict[str, Status]:
        """Run all tasks and return the last status of each by its name.

        `on_update` is called twice a second with the status of every task; `folder` is for local
        files. On a cancellation of `stop`, or any exception, tasks are terminated and none outlives
        the call.

        Raises:
            UserError: the executor cannot be used.
        """
        statuses, waiting = {task.name: Status() for task in tasks}, deque(tasks)
        running: dict[str, TaskHandle] = {}
        with self.connected(tasks):
            try:
                on_update(statuses)
                while waiting or running:
                    while waiting and len(running) < self.max_workers:
                        task = waiting.popleft()
                        running[task.name] = self.submit(task, folder / task.name)
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
        """What lasts as long as tasks are run."""
        yield

    @abstractmethod
    def submit(self, task: Task, folder: Path) -> TaskHandle:
        """Starts a task; `folder` is its own on this machine."""


def _stop_all(jobs: Sequence[TaskHandle]) -> None:
    """Asks all to end, waits for them together, and ends what is left."""
    for job in jobs:
        job.request_stop()
    deadline = time.monotonic() + KILL_S
    for job in jobs:
        job.wait(max(0.1, deadline - time.monotonic()))
        job.kill()


def run_call(call: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a call returned, as `value`, or why it failed, as `reason`; a signal goes through."""
    module, _, function = call.partition(":")
    try:
        return {"value": getattr(import_module(module), function)(given)}
    except UserError as error:
        log.error("Error: %s", error)
        return {"reason": str(error)}
    except MemoryError as error:
        return {"reason": f"out of memory {error}"}
    except Exception as error:
        log.exception("A defect of eyevsai; please report it")
        return {"reason": f"{type(error).__name__}: {error}"}
