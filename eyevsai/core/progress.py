"""Progress output of long operations: a bar on a terminal, otherwise log lines at intervals."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeVar

from eyevsai.core.terminal import is_live

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

T = TypeVar("T")
LINE_EVERY_S = 10.0
PACE_STEPS = 5  # latest steps that the pace is averaged over: the pace may change between phases

log = logging.getLogger("eyevsai")


class Display(Protocol):
    """Live display that shows the progress of operations itself, as a part of more."""

    def track(self, steps: Iterable[T], label: str, *, total: int, unit: int) -> Iterator[T]:
        """Yield `steps` and show the progress, as the function `track` does."""


_display: ContextVar[Display | None] = ContextVar("_display", default=None)


@contextmanager
def showing_progress_in(display: Display) -> Iterator[None]:
    """Show the progress of operations inside the block in `display`: terminals have one at most."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def track(steps: Iterable[T], label: str, *, total: int, unit: int = 1) -> Iterator[T]:
    """Yield `steps` and show the progress, the rate and the remaining time.

    On a live terminal a bar is shown, in the current `Display` if there is one; otherwise a line is
    logged every `LINE_EVERY_S` seconds.

    Args:
        steps: items to iterate over.
        label: text before the numbers.
        total: number of units of all steps.
        unit: units per step; the last step may have fewer.
    """
    if (display := _display.get()) is not None:
        yield from display.track(steps, label, total=total, unit=unit)
        return
    if is_live():
        yield from _show_bar(steps, label, total, unit)
        return
    began = last = time.monotonic()
    completed = 0
    for step in steps:
        yield step
        completed = min(completed + unit, total)
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last, rate = now, completed / (now - began)
            log.info(
                "%s: %d of %d, %s/s, %s left",
                label,
                completed,
                total,
                _format_rate(rate),
                format_seconds((total - completed) / rate),
            )


class EtaEstimator:
    """Estimator of the remaining time of an operation, from the pace of its latest steps."""

    def __init__(self) -> None:
        self.ends = deque([time.monotonic()], maxlen=PACE_STEPS + 1)

    def step(self) -> None:
        """Record the end of a step."""
        self.ends.append(time.monotonic())

    def remaining(self, steps: float) -> str:
        """Return the estimated time of `steps` more steps, for example `, about 40 s left`.

        The time since the last step is part of them. Empty if `steps` is not positive or no step
        has ended yet.
        """
        if steps <= 0 or len(self.ends) < 2:
            return ""
        pace_s = (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        left_s = max(0.0, steps * pace_s - (time.monotonic() - self.ends[-1]))
        return f", about {format_seconds(left_s)} left"


def format_seconds(seconds: float) -> str:
    """Format a duration: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def make_bar(console: Console, *, is_shown: bool = True) -> Progress:
    """Return rich's progress bar with the rate and the remaining time of its tasks.

    Args:
        console: console of the bar.
        is_shown: the bar draws itself, and is erased at its end; otherwise it is a part of another
            live display.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _rate_column(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=is_shown,
    )


def _show_bar(steps: Iterable[T], label: str, total: int, unit: int) -> Iterator[T]:
    from rich.console import Console

    with make_bar(Console(stderr=True)) as progress:
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
