"""Many jobs at once. An engine knows where a call can be made, not what the call does."""

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
ENDING_S = (
    12.0  # that a job has which took too long: for its step, its checkpoint and the end of its run
)
# that all have when their caller is asked to end, which has a second more and must see them gone
STOPPING_S = 7.0


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


Watch = Callable[[Mapping[str, Status]], None]


class Job(ABC):
    """A task that was begun somewhere."""

    def __init__(self, task: Task) -> None:
        self.task, self.asked_at_ = task, math.inf

    def status(self) -> Status:
        """How it stands; when its time is up it is asked to end, and ended if it does not."""
        status, limit_s = self.look(), self.task.timeout_s
        if status.has_ended:
            overdue = self.asked_at_ < math.inf and status.state is State.FAILED
            return replace(status, reason=f"took longer than {limit_s:g} s") if overdue else status
        if limit_s is not None and status.seconds > limit_s:
            self.ask_to_end()
        if time.monotonic() - self.asked_at_ > ENDING_S:
            self.kill()
        return status

    def ask_to_end(self) -> None:
        """Asks once; a second signal would tear what the first has begun."""
        if self.asked_at_ == math.inf:
            self.asked_at_ = time.monotonic()
            self.terminate()

    @abstractmethod
    def look(self) -> Status:
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


class Engine(ABC):
    """Runs so many tasks at a time, side by side. What happens to one leaves the others running."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    def run(
        self, tasks: Sequence[Task], folder: Path, watch: Watch, stop: CancellationToken
    ) -> dict[str, Status]:
        """The end of each task by its name. `watch` is told now and then how all stand; `folder` is
        for local files.

        When `stop` is asked for, or anything is raised here, tasks are asked to end and none
        outlives the call.

        Raises:
            UserError: the engine cannot be used.
        """
        statuses, waiting = {task.name: Status() for task in tasks}, deque(tasks)
        running: dict[str, Job] = {}
        with self.opened(tasks):
            try:
                watch(statuses)
                while waiting or running:
                    while waiting and len(running) < self.at_once:
                        task = waiting.popleft()
                        running[task.name] = self.begin(task, folder / task.name)
                    statuses |= {name: job.status() for name, job in running.items()}
                    running = {
                        name: job for name, job in running.items() if not statuses[name].has_ended
                    }
                    watch(statuses)
                    stop.check()
                    time.sleep(POLL_S)
            finally:
                _end_all(list(running.values()))
        return statuses

    @contextmanager
    def opened(self, tasks: Sequence[Task]) -> Iterator[None]:  # noqa: ARG002
        """What lasts as long as tasks are run."""
        yield

    @abstractmethod
    def begin(self, task: Task, folder: Path) -> Job:
        """Starts a task; `folder` is its own on this machine."""


def _end_all(jobs: Sequence[Job]) -> None:
    """Asks all to end, waits for them together, and ends what is left."""
    for job in jobs:
        job.ask_to_end()
    deadline = time.monotonic() + STOPPING_S
    for job in jobs:
        job.wait(max(0.1, deadline - time.monotonic()))
        job.kill()


def make_call(call: str, given: Mapping[str, Any]) -> dict[str, Any]:
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
