"""Live table of the epochs of a training, on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import TaskID
from rich.text import Text

from eyevsai.core.progress import make_bar, showing_progress_in
from eyevsai.core.terminal import MAX_WIDTH
from eyevsai.evaluation.metric_names import EPOCH_ACCURACY
from eyevsai.reports.epoch_table import BEST, NARROW, render_epochs, sparkline
from eyevsai.training.trainer_state import EpochMetrics

T = TypeVar("T")
MAX_ROWS = 8
OTHER_LINES = 6  # of the header, the sparkline, two bars, the time left and the cursor
SPARKLINE_WIDTH = 40
REFRESH_EVERY_S = 0.5


class EpochDisplay:
    """Table of the last epochs, sparkline of the valid accuracy, and bar of the current epoch.

    A context manager. Log lines and warnings are printed above it meanwhile; the table and the
    sparkline stay on the terminal at the end. It is drawn between steps, by the thread that trains:
    a process that forks must not have other threads. If the terminal is closed, nothing is drawn
    any more, and the training continues.
    """

    def __init__(self, describe_remaining: Callable[[int], str]) -> None:
        """Configure the display.

        Args:
            describe_remaining: returns the time left after a number of completed epochs, or an
                empty text.
        """
        self._describe_remaining = describe_remaining
        self._history: Sequence[EpochMetrics] = ()
        self._console = Console(stderr=True)
        self._live = Live(
            self,
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # otherwise it would be lost to a file or pipe
        )
        self._bars = make_bar(self._console, is_shown=False)
        self._ended: list[TaskID] = []  # bars that the next one replaces
        self._is_closed = self._is_ended = False
        self._drawn_at = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> EpochDisplay:
        self._stack.enter_context(showing_progress_in(self))
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ended = True
        self._stack.close()
        with suppress(OSError):
            self._live.stop()

    def update(self, history: Sequence[EpochMetrics]) -> None:
        """Show the metrics of all epochs so far."""
        self._history = history
        self._draw_if_due()

    def track(self, steps: Iterable[T], label: str, *, total: int, unit: int) -> Iterator[T]:
        """Yield `steps` and show their progress in a bar, which stays until the next one."""
        while self._ended:
            self._bars.remove_task(self._ended.pop())
        bar = self._bars.add_task(label, total=total)
        completed = 0
        try:
            for step in steps:
                yield step
                completed = min(completed + unit, total)
                self._bars.update(bar, completed=completed)
                self._draw_if_due()
        finally:
            self._ended.append(bar)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the display, as rich draws it."""
        width = min(options.max_width, MAX_WIDTH)
        parts = list[RenderableType]()
        if self._history:
            rows = min(MAX_ROWS, max(1, console.height - OTHER_LINES))
            parts.append(render_epochs(self._history, rows, is_narrow=width < NARROW))
        if len(self._history) > 1:
            parts.append(self._summarize(is_ascii=options.ascii_only))
        if not self._is_ended:
            remaining = self._describe_remaining(len(self._history))
            parts += [self._bars, *([Text(remaining)] if remaining else [])]
        yield Constrain(Group(*parts), width)

    def _summarize(self, *, is_ascii: bool) -> Text:
        """Return the sparkline of the valid accuracy, its range and the meaning of the mark."""
        values = [metrics[EPOCH_ACCURACY] for metrics in self._history]
        line = sparkline(values, SPARKLINE_WIDTH, is_ascii=is_ascii)
        return Text.assemble(
            "valid accuracy ",
            (line, "green"),
            f" {min(values):.4f} to {max(values):.4f}; {BEST} best epoch",
        )

    def _draw_if_due(self) -> None:
        now = time.monotonic()
        if self._is_closed or now - self._drawn_at < REFRESH_EVERY_S:
            return
        self._drawn_at = now
        try:
            self._live.refresh()
        except OSError:  # the terminal was closed
            self._is_closed = True
