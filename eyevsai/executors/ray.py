"""Executor for a running Ray cluster, or a temporary one on this machine (Moritz et al. 2018)."""

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

# prefixes of the environment variables that tasks need on every machine
VARIABLE_PREFIXES = ("MLFLOW_", "EYEVSAI_", "AWS_", "PG")
CONNECT_TIMEOUT_S, CLOCK_TIMEOUT_S = 5.0, 10.0
RETRIES = 2  # of a task whose process or machine was lost
PACKAGE = Path(__file__).parents[1]


class RayExecutor(Executor):
    """Executor that runs each task in its own process, on a machine with enough cores and GPUs.

    The eyevsai package is shipped with the tasks. Its dependencies and the data must be available
    on every machine.
    """

    def __init__(self, address: str | None, max_workers: int) -> None:
        super().__init__(max_workers)
        try:
            import ray  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra("--executor ray", "ray") from error
        if address is not None:
            check_reachable(address)
        self.address = address
        self._clock: Any = None

    @contextmanager
    def connected(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Connect to the cluster, or start one on this machine; disconnect at exit.

        Raises:
            UserError: the cluster is unreachable, or has machines that cannot access the store.
        """
        import ray

        num_cpus = self.max_workers * max((task.cpus for task in tasks), default=1)
        with connected_to_ray(self.address, num_cpus):
            self._clock = ray.remote(_Clock).options(num_cpus=0, max_restarts=-1).remote()
            yield

    def submit(self, task: Task, folder: Path) -> TaskHandle:
        """Submit the task to Ray; `folder` is unused, the task's output is in Ray's own logs."""
        del folder
        return _RemoteCall(task, self._clock)


@contextmanager
def connected_to_ray(
    address: str | None, num_cpus: int, variables: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; disconnect, or end it, at exit.

    Args:
        address: address of a running cluster; None for a temporary one.
        num_cpus: cores of a temporary cluster.
        variables: environment variables of all processes of this connection. Ray shows them to all
            users of the cluster.

    Raises:
        UserError: the cluster is unreachable, or has machines that cannot access the store.
    """
    import ray

    # Ray prints lost machines to standard output, which is for the result of the command
    with redirect_stdout(sys.stderr):
        try:
            _connect(address, num_cpus, variables or {})
            _check_store_is_shared()
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None, num_cpus: int, variables: Mapping[str, str]) -> None:
    import ray

    # without this, Ray sends usage statistics to its developers
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # "local": without an address, Ray would use a cluster that runs on this machine already
    local_cluster = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    options = local_cluster if address is None else {"address": address}
    environment: dict[str, Any] = {"py_modules": [str(PACKAGE)]}
    if variables:
        environment["env_vars"] = dict(variables)
    try:
        ray.init(
            **options, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = first_line(error)[:200]
        if address is None:
            raise UserError(
                f"Cannot start a Ray cluster on this machine ({reason}). Fix the cause, or use "
                "--executor local."
            ) from error
        raise _connection_error(address, reason) from error


def check_reachable(address: str) -> None:
    """Raise UserError if no server listens at the address; Ray itself would retry for 15 minutes.

    An address without a port, such as `auto`, is not checked.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _connection_error(address, error.strerror or str(error)) from error


def _connection_error(address: str, reason: str) -> UserError:
    return UserError(
        f"Cannot connect to a Ray cluster at {address} ({reason}). Start one with "
        "`ray start --head`, or omit --ray-address to start a temporary one on this machine."
    )


class _RemoteCall(TaskHandle):
    """Task submitted to Ray, which starts it when a machine has enough free resources."""

    def __init__(self, task: Task, clock: Any) -> None:
        import ray

        super().__init__(task)
        self.clock = clock
        # one call per worker process, so that no call sees the module state of another
        remote_function = ray.remote(max_calls=1)(_run_task).options(
            name=task.name,
            num_cpus=task.cpus,
            num_gpus=task.gpus,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        self.reference = remote_function.remote(task, select_environment(), str(Path.cwd()), clock)

    def poll(self) -> Status:
        """Return the state of the call, and its runtime since its latest start on a worker."""
        import ray

        seconds = self._read_clock()
        if not ray.wait([self.reference], timeout=0)[0]:
            return Status(State.QUEUED) if seconds is None else Status(State.RUNNING, seconds)
        took_s = seconds or 0.0
        try:
            result = ray.get(self.reference)
        except (ray.exceptions.RayError, KeyboardInterrupt) as error:
            return Status(
                State.FAILED, took_s, reason=f"was lost in the cluster: {first_line(error)[:300]}"
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
        import ray

        ray.wait([self.reference], timeout=seconds)

    def _read_clock(self) -> float | None:
        """Return the runtime in seconds; None before the start or if the clock is unreachable."""
        import ray

        try:
            seconds: float | None = ray.get(
                self.clock.seconds.remote(self.task.name), timeout=CLOCK_TIMEOUT_S
            )
        except ray.exceptions.RayError:  # its machine was lost; Ray restarts it on another one
            return None
        return seconds


class _Clock:
    """Ray actor that records when tasks start, so that timeouts exclude the time in Ray's queue."""

    def __init__(self) -> None:
        self.began_at: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """Record the start of a task; a retry of a lost task replaces it."""
        self.began_at[name] = time.monotonic()

    def seconds(self, name: str) -> float | None:
        """Return the runtime of a task in seconds; None before its start."""
        return time.monotonic() - self.began_at[name] if name in self.began_at else None


def _run_task(
    task: Task, environment: Mapping[str, str], folder: str, clock: Any
) -> dict[str, Any]:
    """Run a task in a worker process of Ray."""
    import ray

    from eyevsai.core.logging import configure_logging

    os.environ.update(environment)
    with suppress(OSError):  # the folder may not exist on another machine
        os.chdir(folder)
    configure_logging()
    with suppress(ray.exceptions.RayError):
        ray.get(clock.begin.remote(task.name))
    return run_call(task.call, task.arguments)


def select_environment() -> dict[str, str]:
    """Return the environment variables that processes on other machines need.

    They are passed as an argument, because they can contain passwords: Ray shows those of a
    `runtime_env` to all users of the cluster.
    """
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLE_PREFIXES)}


def find_other_machines() -> list[str]:
    """Return the addresses of the machines of the connected cluster, without this one."""
    import ray

    local_address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call,unused-ignore]
    nodes = ray.nodes()  # type: ignore[no-untyped-call,unused-ignore]
    addresses = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    return sorted(addresses - {local_address})


def _check_store_is_shared() -> None:
    """Raise UserError if the store is a local SQLite file and the cluster has other machines."""
    others = find_other_machines()
    if others and find_store().startswith("sqlite:"):
        raise UserError(
            "The SQLite store of this machine is not accessible from the other machines of the "
            f"cluster ({', '.join(others[:3])}). Set MLFLOW_TRACKING_URI to a server: "
            "docs/team.md."
        )
