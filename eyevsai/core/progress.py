"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

T = TypeVar("T")
LINE_EVERY_S = 10.0
RECENT = 5  # steps by which what is left is reckoned: those before may have been of another kind

log = logging.getLogger("eyevsai")


def track(steps: Iterable[T], label: str, *, total: int, unit: int = 1) -> Iterator[T]:
    """Yields `steps` and shows how far they are, how fast, and how long it still takes.

    Each step stands for `unit` of `total` things.
    """
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        yield from _bar(steps, label, total, unit)
        return
    began = last = time.monotonic()
    done = 0
    for step in steps:
        yield step
        done = min(done + unit, total)
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last, rate = now, done / (now - began)
            log.info(
                "%s: %d of %d, %s/s, %s left",
                label,
                done,
                total,
                _format_rate(rate),
                format_seconds((total - done) / rate),
            )


class EtaEstimator:
    """How long work of several steps will still take, by the pace of the latest ones."""

    def __init__(self) -> None:
        self.ends = deque([time.monotonic()], maxlen=RECENT + 1)

    def step(self) -> None:
        """A step has ended."""
        self.ends.append(time.monotonic())

    def remaining(self, steps: float) -> str:
        """How long `steps` more will take: `, about 40 s left`; empty when there are none, or
        nothing is known.
        """
        if steps <= 0 or len(self.ends) < 2:
            return ""
        pace_s = (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        return f", about {format_seconds(steps * pace_s)} left"


def format_seconds(seconds: float) -> str:
    """A time as people say it: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _bar(steps: Iterable[T], label: str, total: int, unit: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _rate_column(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        for step in steps:
            yield step
            progress.advance(task, min(unit, total - progress.tasks[0].completed))


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{_format_rate(task.speed)}/s")

    return Rate()
