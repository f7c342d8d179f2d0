"""Factory of executors, and the division of this machine's CPU cores among tasks."""

from __future__ import annotations

from eyevsai.core.cores import count_cores
from eyevsai.executors.base import Executor
from eyevsai.executors.settings import LOCAL, ExecutorSettings


def make_executor(settings: ExecutorSettings, max_workers: int, *, quiet: bool = True) -> Executor:
    """Return the executor that the settings select.

    Args:
        settings: the executor and the address of its cluster.
        max_workers: number of tasks to run in parallel.
        quiet: local tasks write their output to files instead of this process's output. Ray tasks
            write to Ray's logs in any case.

    Raises:
        UserError: the executor needs an extra that is not installed, or its cluster is unreachable.
    """
    if settings.executor == LOCAL:
        from eyevsai.executors.local import LocalExecutor

        return LocalExecutor(max_workers, quiet=quiet)
    from eyevsai.executors.ray import RayExecutor

    return RayExecutor(settings.ray_address, max_workers)


def count_cpus(settings: ExecutorSettings, max_workers: int) -> int:
    """Return the CPU cores per task: `cpus_per_job`, or an equal share of the available cores.

    The share is at least 1.
    """
    return settings.cpus_per_job or max(1, count_cores() // max_workers)
