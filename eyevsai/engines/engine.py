"""Many jobs at once. An engine knows where a call can be made, not what the call does."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from eyevsai.errors import UserError
from eyevsai.stopping import Stop

log = logging.getLogger("eyevsai")

POLL_S = 0.5
ENDING_S = 12.0  # that a job has which was asked to end: for its step, its checkpoint and the end of its run


@dataclass(frozen=True)
class Task:
    """A call that can be made in another process.

    `call` is a function of ours as "module:function". It takes `given`, plain values, and returns plain values.
    """

    name: str  # [A-Za-z0-9_.-]
    call: str
    given: Mapping[str, Any]
    cpus: int = 1
    gpus: float = 0.0
    timeout_s: float | None = None

    @property
    def overdue(self) -> str:
        """What is said of it when it took too long."""
        return f"took longer than {self.timeout_s:g} s"


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


class Engine(ABC):
    """Runs tasks side by side. What happens to one leaves the others running."""

    @abstractmethod
    def run(self, tasks: Sequence[Task], folder: Path, watch: Watch, stop: Stop) -> dict[str, Status]:
        """The end of each task by its name. `watch` is told now and then how all stand; `folder` is for local files.

        When `stop` is asked for, or anything is raised here, tasks are asked to end and none outlives the call.

        Raises:
            UserError: the engine cannot be used.
        """


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
