"""Forks of the test's process: they race and share, and have imported everything already."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch


def start_fork(function: Callable[..., None], *given: Any) -> BaseProcess:
    """Start a call in a fork of this process; an exception makes its exit code 1."""
    torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork
    fork = multiprocessing.get_context("fork").Process(target=function, args=given, daemon=True)
    fork.start()
    return fork


def join_forks(forks: Sequence[BaseProcess], seconds: float = 120.0) -> list[int | None]:
    """Wait for the end of all, and return their exit codes; whoever takes longer is killed."""
    deadline = time.monotonic() + seconds
    for fork in forks:
        fork.join(max(0.0, deadline - time.monotonic()))
        if fork.is_alive():
            fork.kill()
            fork.join()
    return [fork.exitcode for fork in forks]


def wait_for_file(path: Path, seconds: float = 60.0) -> None:
    """Wait until a fork has written a file."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"nobody wrote {path}"
        time.sleep(0.01)
