"""Live table of epochs, on a terminal in memory."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from errno import EIO

import pytest

from eyevsai.core.logging import configure_logging
from eyevsai.core.progress import track
from eyevsai.training.pace import TimeBudget
from eyevsai.workflows.train import epoch_display
from eyevsai.workflows.train.epoch_log import EpochLog
from tests.screen import hides_cursor, render_screen
from tests.unit.reports.test_epoch_table import make_epoch

log = logging.getLogger("eyevsai")


class Terminal(io.StringIO):
    """Standard error of a terminal, which can be closed."""

    encoding = "utf-8"
    is_gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.is_gone:
            raise OSError(EIO, "Input/output error")
        return super().write(text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal of 100 x 30 that shows each step, with the logger of a command."""
    environment = {"COLUMNS": "100", "LINES": "30", "TERM": "xterm", "CI": "", "NO_COLOR": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("EYEVSAI_VERBOSITY", raising=False)
    monkeypatch.setattr(epoch_display, "REFRESH_EVERY_S", 0.0)
    handlers, level, propagates = list(log.handlers), log.level, log.propagate
    configure_logging()
    yield Terminal()
    log.handlers, log.propagate = handlers, propagates
    log.setLevel(level)


@contextmanager
def shown_on(terminal: Terminal, epoch_log: EpochLog) -> Iterator[EpochLog]:
    """Enter the log with the terminal as standard error, which pytest replaces after fixtures."""
    with redirect_stderr(terminal), epoch_log:
        yield epoch_log


def train(epoch_log: EpochLog, accuracies: list[float]) -> None:
    """Report an epoch of ten steps for each accuracy."""
    history = []
    for epoch, accuracy in enumerate(accuracies, 1):
        for _ in track(range(10), f"Epoch {epoch} of {len(accuracies)}", total=95, unit=10):
            pass
        history.append(make_epoch(accuracy))
        epoch_log.log(history)


def test_table_with_bar_is_drawn_in_place_and_stays_without_bar(terminal: Terminal) -> None:
    with shown_on(terminal, EpochLog(3)) as epoch_log:
        train(epoch_log, [0.2, 0.9, 0.8])
        meanwhile = render_screen(terminal.getvalue())
        assert hides_cursor(terminal.getvalue())
    assert [line.split()[:2] for line in meanwhile[:4]] == [
        ["epoch", "train"],
        ["1", "1.2346"],
        ["*", "2"],
        ["3", "1.2346"],
    ]
    assert meanwhile[4] == "valid accuracy ▁█▇ 0.2000 to 0.9000; * best epoch"
    assert meanwhile[5].startswith("Epoch 3 of 3 ━")
    assert " 95/95 " in meanwhile[5]
    final = render_screen(terminal.getvalue())
    assert final[:5] == meanwhile[:5]
    assert not "".join(final[5:])
    assert not hides_cursor(terminal.getvalue())


def test_time_left_follows_from_the_epochs_or_from_the_budget(terminal: Terminal) -> None:
    with shown_on(terminal, EpochLog(3)) as epoch_log:
        train(epoch_log, [0.2])
        assert render_screen(terminal.getvalue())[-1] == "about 0 s left"
    budget = TimeBudget(600.0, 0.0, clock=lambda: 60.0)
    with shown_on(terminal, EpochLog(1, budget)) as epoch_log:
        train(epoch_log, [0.2])
        assert render_screen(terminal.getvalue())[-1] == "9 min of the time budget left"


def test_log_lines_come_above_the_table_and_keep_it_whole(terminal: Terminal) -> None:
    with shown_on(terminal, EpochLog(3)) as epoch_log:
        train(epoch_log, [0.2, 0.3])
        log.warning("Out of memory: using 2 micro-batches from now on.")
        print("a library writes", file=sys.stderr)
        train(epoch_log, [0.2, 0.3, 0.4])
    screen = render_screen(terminal.getvalue())
    assert screen[:2] == ["Out of memory: using 2 micro-batches from now on.", "a library writes"]
    assert screen[2].split()[0] == "epoch"
    assert [line.split()[0] for line in screen[3:6]] == ["1", "2", "*"]
    assert not any("valid accuracy 0." in line for line in screen)  # the line of an epoch


def test_table_fits_the_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "9")
    monkeypatch.setenv("COLUMNS", "60")
    with shown_on(terminal, EpochLog(30)) as epoch_log:
        train(epoch_log, [0.1 + 0.02 * number for number in range(30)])
        screen = render_screen(terminal.getvalue())
    assert max(map(len, screen)) <= 60
    assert [line.split()[:2] for line in screen[1:4]] == [
        ["28", "1.2346"],
        ["29", "1.2346"],
        ["*", "30"],
    ]
    assert "images/s" not in screen[0]


def test_wide_terminal_gets_100_columns(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    with shown_on(terminal, EpochLog(60)) as epoch_log:
        train(epoch_log, [0.5 + 0.001 * number for number in range(60)])
        screen = render_screen(terminal.getvalue())
    assert max(map(len, screen)) <= 100


def test_training_continues_if_the_terminal_is_closed(terminal: Terminal) -> None:
    with shown_on(terminal, EpochLog(3)) as epoch_log:
        train(epoch_log, [0.1, 0.2])
        terminal.is_gone = True
        train(epoch_log, [0.1, 0.2, 0.3])


def test_encoding_without_blocks_gets_ascii(terminal: Terminal) -> None:
    terminal.encoding = "ascii"
    with shown_on(terminal, EpochLog(3)) as epoch_log:
        train(epoch_log, [0.1, 0.2, 0.3])
    assert "valid accuracy _=# 0.1000 to 0.3000" in terminal.getvalue()
    assert terminal.getvalue().isascii()


def test_nested_operations_have_a_bar_each(terminal: Terminal) -> None:
    with shown_on(terminal, EpochLog(3)):
        for _ in track(range(2), "Outer", total=2):
            for _ in track(range(3), "Inner", total=3):
                pass
        screen = render_screen(terminal.getvalue())
    assert [line.split()[0] for line in screen] == ["Outer", "Inner"]


@pytest.mark.parametrize(
    ("name", "value"), [("TERM", "dumb"), ("CI", "true"), ("EYEVSAI_VERBOSITY", "verbose")]
)
def test_lines_are_logged_where_a_table_is_not_wanted(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with shown_on(terminal, EpochLog(3)) as epoch_log:
        epoch_log.log([make_epoch(0.5)])
    assert "epoch 1 of 3  valid accuracy 0.5000" in terminal.getvalue()
    assert "\x1b[?25l" not in terminal.getvalue()


def test_single_epoch_is_a_line_without_the_result(terminal: Terminal) -> None:
    with shown_on(terminal, EpochLog(1)) as epoch_log:
        epoch_log.log([make_epoch(0.5)])
    assert terminal.getvalue().startswith("epoch 1 of 1  train accuracy ")
    assert "valid accuracy" not in terminal.getvalue()  # the command prints it as its result
