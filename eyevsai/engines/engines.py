"""The table of engines."""

from __future__ import annotations

import os

from eyevsai.engines.engine import Engine
from eyevsai.engines.settings import LOCAL, EngineSettings


def make_engine(settings: EngineSettings, at_once: int, *, quiet: bool = True) -> Engine:
    """The engine that was chosen, for so many tasks at a time; `quiet` ones keep what they say in
    files.

    Raises:
        UserError: it needs an extra that is not installed, or does not answer.
    """
    if settings.engine == LOCAL:
        from eyevsai.engines.local import LocalEngine

        return LocalEngine(at_once, quiet=quiet)
    from eyevsai.engines.ray import RayEngine

    return RayEngine(settings.ray_address, at_once)


def count_cpus(settings: EngineSettings, at_once: int) -> int:
    """The cores of each task: as many as were asked for, or its share of those that this process
    may use.
    """
    return settings.job_cpus or max(1, count_cores() // at_once)


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
