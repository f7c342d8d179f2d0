"""A Ray cluster (Moritz et al. 2018): one that runs already, or one that is started here for the
time being.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError, first_line
from eyevsai.core.extras import missing_extra
from eyevsai.executors.base import Executor, State, Status, Task, TaskHandle, run_call
from eyevsai.store.uris import find_store

SHIPPED = ("MLFLOW_", "EYEVSAI_", "AWS_")  # begin the variables that jobs need wherever they run
REACH_S, CLOCK_S = 5.0, 10.0
RETRIES = 2  # of a task whose process or machine was lost
PACKAGE = Path(__file__).parents[1]


class RayExecutor(Executor):
    """Each task in a process of its own on a machine that has the cores and GPUs it asks for.

    This code goes with them; their packages and the data have to be on every machine.
    """

    def __init__(self, address: str | None, max_workers: int) -> None:
        super().__init__(max_workers)
        try:
            import ray  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra("--executor ray", "ray") from error
        if address is not None:
            _reach(address)
        self.address = address
        self._clock: Any = None

    @contextmanager
    def connected(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Connect to the cluster, or start one on this machine; disconnect at exit."""
        import ray

        with redirect_stdout(sys.stderr):
            # where Ray says that a machine was lost, which is no part of our answer
            try:
                self._connect(tasks)
                _check_store_is_shared()
                self._clock = ray.remote(_Clock).options(num_cpus=0, max_restarts=-1).remote()
                yield
            finally:
                ray.shutdown()

    def submit(self, task: Task, folder: Path) -> TaskHandle:
        """Submit the task to Ray; `folder` is unused, the task's output is in Ray's own logs."""
        del folder
        return _Call(task, self._clock)

    def _connect(self, tasks: Sequence[Task]) -> None:
        import ray

        # or what is run here is told to Ray's makers
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here = {
            "num_cpus": self.max_workers * max((task.cpus for task in tasks), default=1),
            "include_dashboard": False,
        }
        chosen = here if self.address is None else {"address": self.address}
        try:
            ray.init(
                **chosen,
                runtime_env={"py_modules": [str(PACKAGE)]},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise _no_cluster(self.address or "this machine", first_line(error)[:200]) from error


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
    return UserError(
        f"There is no Ray cluster at {where} ({why}). Start one with `ray start --head`, or leave "
        "--ray-address out to have one here for the time being."
    )


class _Call(TaskHandle):
    """A task that was given to Ray, which starts it where there is room."""

    def __init__(self, task: Task, clock: Any) -> None:
        import ray

        super().__init__(task)
        self.clock = clock
        environment = {
            name: value for name, value in os.environ.items() if name.startswith(SHIPPED)
        }
        # one call for each process, so that none finds another's state
        work = ray.remote(max_calls=1)(_run_task).options(
            name=task.name,
            num_cpus=task.cpus,
            num_gpus=task.gpus,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        self.reference = work.remote(task, environment, str(Path.cwd()), clock)

    def poll(self) -> Status:
        """Return the state of the call, with the seconds that its worker counted."""
        import ray

        seconds = self._ask_clock()
        if not ray.wait([self.reference], timeout=0)[0]:
            return Status(State.QUEUED) if seconds is None else Status(State.RUNNING, seconds)
        took_s = seconds or 0.0
        try:
            result = ray.get(self.reference)
        except (ray.exceptions.RayError, KeyboardInterrupt) as error:
            return Status(
                State.FAILED, took_s, reason=f"was lost by Ray: {first_line(error)[:300]}"
            )
        if "value" in result:
            return Status(State.DONE, took_s, result["value"])
        return Status(State.FAILED, took_s, reason=result["reason"])

    def terminate(self) -> None:
        """Cancel the call, which raises KeyboardInterrupt in its worker."""
        import ray

        ray.cancel(self.reference, force=False)

    def kill(self) -> None:
        """Cancel the call by force: its worker process is killed."""
        import ray

        ray.cancel(self.reference, force=True)

    def wait(self, seconds: float) -> None:
        """Wait until the call has ended, at most `seconds`."""
        import ray

        ray.wait([self.reference], timeout=seconds)

    def _ask_clock(self) -> float | None:
        import ray

        try:
            seconds: float | None = ray.get(
                self.clock.seconds.remote(self.task.name), timeout=CLOCK_S
            )
        except ray.exceptions.RayError:  # its machine is gone; it begins again on another one
            return None
        return seconds


class _Clock:
    """Knows since when tasks run: what waits for a free machine takes none of its time."""

    def __init__(self) -> None:
        self.began_at: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """A task begins, or begins again elsewhere."""
        self.began_at[name] = time.monotonic()

    def seconds(self, name: str) -> float | None:
        """How long a task has run; None before it has begun."""
        return time.monotonic() - self.began_at[name] if name in self.began_at else None


def _run_task(
    task: Task, environment: Mapping[str, str], folder: str, clock: Any
) -> dict[str, Any]:
    """What Ray runs elsewhere. Variables come as a value, since Ray shows those of a `runtime_env`
    to everybody.
    """
    import ray

    from eyevsai.core.logging import configure_logging

    os.environ.update(environment)
    with suppress(OSError):  # on another machine there may be no such folder
        os.chdir(folder)
    configure_logging()
    with suppress(ray.exceptions.RayError):
        ray.get(clock.begin.remote(task.name))
    return run_call(task.call, task.given)


def _check_store_is_shared() -> None:
    """Raises UserError when other machines would each look for the store in a file of their own."""
    import ray

    here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call,unused-ignore]
    nodes = ray.nodes()  # type: ignore[no-untyped-call,unused-ignore]
    others = {node["NodeManagerAddress"] for node in nodes if node["Alive"]} - {here}
    if others and find_store().startswith("sqlite:"):
        raise UserError(
            f"The cluster has other machines ({', '.join(sorted(others)[:3])}), which do not see "
            "the SQLite store of this one. Set MLFLOW_TRACKING_URI to a server: docs/team.md."
        )
