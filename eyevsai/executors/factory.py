"""Make the executor of a command's settings, and divide this machine's cores among tasks."""

from __future__ import annotations

import os

from eyevsai.executors.base import Executor
from eyevsai.executors.settings import LOCAL, ExecutorSettings


def make_executor(settings: ExecutorSettings, max_workers: int, *, quiet: bool = True) -> Executor:
    """Make the chosen executor for `max_workers` tasks at a time.

    With `quiet`, tasks write their output to files.

    Raises:
        UserError: it needs an extra that is not installed, or does not answer.
    """
    if settings.executor == LOCAL:
        from eyevsai.executors.local import LocalExecutor

        return LocalExecutor(max_workers, quiet=quiet)
    from eyevsai.executors.ray import RayExecutor

    return RayExecutor(settings.ray_address, max_workers)


def count_cpus(settings: ExecutorSettings, max_workers: int) -> int:
    """The cores of each task: as many as were asked for, or its share of those that this process
    may use.
    """
    return settings.cpus_per_job or max(1, count_cores() // max_workers)


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
