"""A Ray cluster (Moritz et al. 2018): one that runs already, or one that is started here for the time being."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.engines.engine import ENDING_S, POLL_S, Engine, State, Status, Task, Watch, make_call
from eyevsai.errors import UserError
from eyevsai.stopping import Stop
from eyevsai.store import find_store

SHIPPED = ("MLFLOW_", "EYEVSAI_", "AWS_")  # begin the variables that jobs need wherever they run
REACH_S = 5.0
RETRIES = 2  # of a task whose process or machine was lost
PACKAGE = Path(__file__).parents[1]


class RayEngine(Engine):
    """So many tasks at a time, each in a process of its own on a machine that has the cores and GPUs it asks for.

    This code goes with them; their packages and the data have to be on every machine.
    """

    def __init__(self, address: str | None, at_once: int) -> None:
        try:
            import ray  # noqa: F401
        except ModuleNotFoundError as error:
            raise UserError("--engine ray needs the extra ray: pip install -e '.[ray]'") from error
        if address is not None:
            _reach(address)
        self.address, self.at_once = address, at_once

    def run(self, tasks: Sequence[Task], folder: Path, watch: Watch, stop: Stop) -> dict[str, Status]:
        """See `Engine.run`."""
        del folder  # what jobs say is in Ray's own logs
        with redirect_stdout(sys.stderr):  # where Ray says that a machine was lost, which is no part of our answer
            return self._run(tasks, watch, stop)

    def _run(self, tasks: Sequence[Task], watch: Watch, stop: Stop) -> dict[str, Status]:
        import ray

        self._connect(tasks)
        statuses, waiting = {task.name: Status() for task in tasks}, deque(tasks)
        running: dict[str, _Call] = {}
        try:
            _refuse_store_of_one_machine()
            clock = ray.remote(_Clock).options(num_cpus=0, max_restarts=-1).remote()
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    task = waiting.popleft()
                    running[task.name] = _Call.begin(task, clock)
                started = _ask(clock)
                statuses |= {name: call.status(started) for name, call in running.items()}
                running = {name: call for name, call in running.items() if not statuses[name].has_ended}
                watch(statuses)
                stop.check()
                time.sleep(POLL_S)
        finally:
            _end_all(running.values())
            ray.shutdown()
        return statuses

    def _connect(self, tasks: Sequence[Task]) -> None:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or what is run here is told to Ray's makers
        here = {"num_cpus": self.at_once * max((task.cpus for task in tasks), default=1), "include_dashboard": False}
        chosen = here if self.address is None else {"address": self.address}
        try:
            ray.init(**chosen, runtime_env={"py_modules": [str(PACKAGE)]}, log_to_driver=False,
                     logging_level=logging.ERROR)  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise _no_cluster(self.address or "this machine", str(error).splitlines()[0][:200]) from error


def _reach(address: str) -> None:
    """Raises UserError when nobody listens: Ray itself would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # such as auto
        return
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from error


def _no_cluster(where: str, why: str) -> UserError:
    return UserError(f"There is no Ray cluster at {where} ({why}). Start one with `ray start --head`, or leave "
                     "--ray-address out to have one here for the time being.")  # fmt: skip


@dataclass
class _Call:
    """A task that was given to Ray."""

    task: Task
    reference: Any
    ending_at: float = float("inf")

    @classmethod
    def begin(cls, task: Task, clock: Any) -> _Call:
        """Gives a task to Ray, which starts it where there is room."""
        import ray

        environment = {name: value for name, value in os.environ.items() if name.startswith(SHIPPED)}
        work = ray.remote(max_calls=1)(_work).options(  # one call of a process, so that none finds another's state
            name=task.name, num_cpus=task.cpus, num_gpus=task.gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )  # fmt: skip
        return cls(task, work.remote(task, environment, str(Path.cwd()), clock))

    def status(self, started: Mapping[str, float]) -> Status:
        """How it stands; asks it to end when its time is up, then ends it."""
        import ray

        seconds = started.get(self.task.name, 0.0)
        if not ray.wait([self.reference], timeout=0)[0]:
            if self.task.timeout_s is not None and seconds > self.task.timeout_s:
                self.ask_to_end()
            if time.monotonic() - self.ending_at > ENDING_S:
                ray.cancel(self.reference, force=True)
            return Status(State.RUNNING if self.task.name in started else State.QUEUED, seconds)
        try:
            result = ray.get(self.reference)
        except (ray.exceptions.RayError, KeyboardInterrupt) as error:
            overdue = self.ending_at < float("inf")
            reason = self.task.overdue if overdue else f"was lost by Ray: {str(error).splitlines()[0][:300]}"
            return Status(State.FAILED, seconds, reason=reason)
        if "value" in result:
            return Status(State.DONE, seconds, result["value"])
        return Status(State.FAILED, seconds, reason=result["reason"])

    def ask_to_end(self) -> None:
        """Asks once."""
        import ray

        if self.ending_at == float("inf"):
            self.ending_at = time.monotonic()
            ray.cancel(self.reference, force=False)


class _Clock:
    """Knows since when tasks run: what waits for a free machine takes none of its time."""

    def __init__(self) -> None:
        self.began_at: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """A task begins, or begins again elsewhere."""
        self.began_at[name] = time.monotonic()

    def seconds(self) -> dict[str, float]:
        """How long each task has run."""
        now = time.monotonic()
        return {name: now - began_at for name, began_at in self.began_at.items()}


def _work(task: Task, environment: Mapping[str, str], folder: str, clock: Any) -> dict[str, Any]:
    """What Ray runs elsewhere. Variables come as a value, since Ray shows those of a `runtime_env` to everybody."""
    import ray

    from eyevsai.console import start_logging

    os.environ.update(environment)
    with suppress(OSError):  # on another machine there may be no such folder
        os.chdir(folder)
    start_logging()
    with suppress(ray.exceptions.RayError):
        ray.get(clock.begin.remote(task.name))
    return make_call(task.call, task.given)


def _ask(clock: Any) -> dict[str, float]:
    import ray

    try:
        seconds: dict[str, float] = ray.get(clock.seconds.remote(), timeout=10)
    except ray.exceptions.RayError:  # its machine is gone; it begins again on another one
        return {}
    return seconds


def _end_all(calls: Any) -> None:
    """Asks all to end, waits for them together, and ends what is left."""
    import ray

    asked = list(calls)
    for call in asked:
        call.ask_to_end()
    references = [call.reference for call in asked]
    if references:
        _, left = ray.wait(references, num_returns=len(references), timeout=ENDING_S)
        for reference in left:
            ray.cancel(reference, force=True)


def _refuse_store_of_one_machine() -> None:
    """Raises UserError when other machines would each look for the store in a file of their own."""
    import ray

    here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call,unused-ignore]
    nodes = ray.nodes()  # type: ignore[no-untyped-call,unused-ignore]
    others = {node["NodeManagerAddress"] for node in nodes if node["Alive"]} - {here}
    if others and find_store().startswith("sqlite:"):
        raise UserError(
            f"The cluster has other machines ({', '.join(sorted(others)[:3])}), which do not see the SQLite store of "
            "this one. Set MLFLOW_TRACKING_URI to a server: docs/team.md."
        )
