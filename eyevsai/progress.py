"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_S = 10.0

log = logging.getLogger("eyevsai")


def track(steps: Iterable[T], label: str, *, total: int, unit: int = 1) -> Iterator[T]:
    """Yields `steps` and shows how far they are; each step stands for `unit` of `total` things."""
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        yield from _bar(steps, label, total, unit)
        return
    last, done = time.monotonic(), 0
    for step in steps:
        yield step
        done = min(done + unit, total)
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            log.info("%s: %d of %d", label, done, total)


def _bar(steps: Iterable[T], label: str, total: int, unit: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        for step in steps:
            yield step
            progress.advance(task, unit)
