"""What a job does when it is asked to end: by a signal, or because `mlflow run` above it died."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import TerminationRequested

if TYPE_CHECKING:
    import psutil

# for the step, the checkpoint and the end of the run; then the last checkpoint stands
GRACE_S = 8.0
LAST_CALL_S = 1.5
WATCH_EVERY_S = 1.0
EXIT_CODES = {signal.SIGTERM: TerminationRequested.exit_code, signal.SIGINT: 130}


IN_HOST_PROCESS = ContextVar("IN_HOST_PROCESS", default=False)


@contextmanager
def in_host_process() -> Iterator[None]:
    """Jobs inside the block end without their process, which is somebody's program or notebook and
    not a command.
    """
    before = IN_HOST_PROCESS.set(True)
    try:
        yield
    finally:
        IN_HOST_PROCESS.reset(before)


class ShutdownHandler(CancellationToken):
    """The wish to end of a whole job; `at_timeout` is called when the job has not ended in time.

    One `in_host_process` never ends the process for SIGINT, by which a notebook interrupts a cell.
    """

    def __init__(self, *, in_host_process: bool = False) -> None:
        super().__init__()
        self.in_host_process = in_host_process
        self.at_timeout: Callable[[], None] = lambda: None
        self.timer: threading.Timer | None = None

    def handle(self, number: int, _: object) -> None:
        """Takes a signal. A second one never disturbs what the first has begun."""
        if self.requested is not None:
            return
        self.requested = TerminationRequested() if number == signal.SIGTERM else KeyboardInterrupt()
        if number == signal.SIGTERM or not self.in_host_process:
            self.timer = threading.Timer(
                GRACE_S, self._give_up, [EXIT_CODES[signal.Signals(number)]]
            )
            self.timer.daemon = True
            self.timer.start()
        if not self.is_shielded:
            raise self.requested

    def _give_up(self, exit_code: int) -> None:
        # a server that is gone must not hold us
        ending = threading.Thread(target=self.at_timeout, daemon=True)
        ending.start()
        ending.join(LAST_CALL_S)
        print(
            "Interrupted in the middle of a step: the last checkpoint stands.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(exit_code)


@contextmanager
def handling_signals() -> Iterator[ShutdownHandler]:
    """Inside the block SIGTERM raises TerminationRequested and SIGINT KeyboardInterrupt, where
    the work can bear it.
    """
    stop = ShutdownHandler(in_host_process=IN_HOST_PROCESS.get())
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in EXIT_CODES}
    try:
        yield stop
    finally:
        if stop.timer is not None:
            stop.timer.cancel()
        for number, handler in before.items():
            # a process that was asked to end is ending: no further signal is to tear what is left
            # of it
            signal.signal(
                number,
                handler if stop.requested is None or stop.in_host_process else signal.SIG_IGN,
            )


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def ending_with_mlflow_run() -> Iterator[None]:
    """Inside the block the process gets SIGTERM when the `mlflow run` that started it dies.

    MLflow forwards no signal, and there may be a shell between it and us.
    """
    import psutil

    above = []
    for process in psutil.Process().parents():
        above.append(process)
        if "run" in (words := _words(process)) and any("mlflow" in word for word in words):
            break
    else:
        above = []
    with _ending_with(above):
        yield


@contextmanager
def ending_with_parent(end: Callable[[], None] = _terminate) -> Iterator[None]:
    """Inside the block `end` is called, which by default sends SIGTERM, when the process that
    started this one dies.
    """
    import psutil

    with _ending_with([psutil.Process(os.getppid())], end):
        yield


@contextmanager
def _ending_with(
    above: Sequence[psutil.Process], end: Callable[[], None] = _terminate
) -> Iterator[None]:
    done = threading.Event()

    def _watch() -> None:
        while not done.wait(WATCH_EVERY_S):
            if not all(process.is_running() and process.status() != "zombie" for process in above):
                end()
                return

    if above:
        threading.Thread(target=_watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _words(process: object) -> list[str]:
    import psutil

    try:
        return process.cmdline()  # type: ignore[attr-defined,no-any-return]
    except psutil.Error:
        return []
