"""Shutdown of a job by a signal, or because its parent process or `mlflow run` died."""

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
from eyevsai.core.process_tree import TERMINATION_SIGNALS, find_parent, terminate_this_process
from eyevsai.core.terminal import SHOW_CURSOR

if TYPE_CHECKING:
    import psutil

# time to finish the step, write a checkpoint and end the run, before the process exits
GRACE_S = 8.0
AT_TIMEOUT_S = 1.5  # time limit of `ShutdownHandler.at_timeout`
WATCH_EVERY_S = 1.0
EXIT_CODES = {
    **dict.fromkeys(TERMINATION_SIGNALS, TerminationRequested.exit_code),
    signal.SIGINT: 130,
}


IN_HOST_PROCESS = ContextVar("IN_HOST_PROCESS", default=False)


@contextmanager
def in_host_process() -> Iterator[None]:
    """Mark the process as the host of jobs inside the block: a program or notebook, no command.

    SIGINT then ends the job but never exits the process, and the previous signal handlers are
    restored after the job.
    """
    token = IN_HOST_PROCESS.set(True)
    try:
        yield
    finally:
        IN_HOST_PROCESS.reset(token)


class ShutdownHandler(CancellationToken):
    """Cancellation token of a job, requested by SIGINT, SIGTERM and, on Windows, SIGBREAK.

    If the job has not ended `GRACE_S` after the signal, `at_timeout` is called and the process
    exits.

    Args:
        in_host_process: SIGINT never exits the process: a notebook interrupts a cell with it.
    """

    def __init__(self, *, in_host_process: bool = False) -> None:
        super().__init__()
        self.in_host_process = in_host_process
        self.at_timeout: Callable[[], None] = lambda: None
        self.timer: threading.Timer | None = None

    def handle(self, number: int, _: object) -> None:
        """Handle a signal: request the cancellation, and raise it unless the job is shielded.

        Starts the timeout. Further signals are ignored, so that they do not interrupt the shutdown.
        """
        if self.requested is not None:
            return
        self.requested = KeyboardInterrupt() if number == signal.SIGINT else TerminationRequested()
        if number != signal.SIGINT or not self.in_host_process:
            self.timer = threading.Timer(
                GRACE_S, self._exit_process, [EXIT_CODES[signal.Signals(number)]]
            )
            self.timer.daemon = True
            self.timer.start()
        if not self.is_shielded:
            raise self.requested

    def _exit_process(self, exit_code: int) -> None:
        """Call `at_timeout`, then exit at once with `exit_code`."""
        # in a thread, because an unreachable server may block `at_timeout`
        thread = threading.Thread(target=self.at_timeout, daemon=True)
        thread.start()
        thread.join(AT_TIMEOUT_S)
        if sys.stderr.isatty():  # a live display may have hidden the cursor
            print(SHOW_CURSOR, end="", file=sys.stderr)
        print(
            f"Terminated: the job did not end within {GRACE_S:g} s. Saved checkpoints are kept.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(exit_code)


@contextmanager
def handling_signals() -> Iterator[ShutdownHandler]:
    """Yield the cancellation token of a job, and handle signals inside the block.

    SIGINT raises KeyboardInterrupt and the others TerminationRequested: at once, or, if the token
    is shielded, at its next `check`. Does not handle signals outside of the main thread. If a
    signal was received, all of them are ignored after the block, except in a host process.
    """
    stop = ShutdownHandler(in_host_process=IN_HOST_PROCESS.get())
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {number: signal.signal(number, stop.handle) for number in EXIT_CODES}
    try:
        yield stop
    finally:
        if stop.timer is not None:
            stop.timer.cancel()
        for number, handler in handlers.items():
            # further signals must not interrupt the shutdown of the process
            signal.signal(
                number,
                handler if stop.requested is None or stop.in_host_process else signal.SIG_IGN,
            )


@contextmanager
def ending_with_mlflow_run() -> Iterator[None]:
    """Send SIGTERM to this process if the `mlflow run` that started it dies inside the block.

    MLflow does not forward signals. There may be a shell between `mlflow run` and this process; it
    is watched, too. Does nothing outside of `mlflow run`.
    """
    import psutil

    ancestors = []
    for process in psutil.Process().parents():
        ancestors.append(process)
        if "run" in (words := _read_command(process)) and any("mlflow" in word for word in words):
            break
    else:
        ancestors = []
    with _ending_with(ancestors):
        yield


@contextmanager
def ending_with_parent(end: Callable[[], None] = terminate_this_process) -> Iterator[None]:
    """Call `end` if the parent process has died, or in a thread if it dies inside the block.

    By default, `end` sends SIGTERM to this process.
    """
    import psutil

    try:
        processes = [find_parent()]
    except psutil.NoSuchProcess:
        processes = []
        end()
    with _ending_with(processes, end):
        yield


@contextmanager
def _ending_with(
    processes: Sequence[psutil.Process], end: Callable[[], None] = terminate_this_process
) -> Iterator[None]:
    """Call `end` in a thread, once, if any of `processes` dies inside the block."""
    block_ended = threading.Event()

    def _watch() -> None:
        while not block_ended.wait(WATCH_EVERY_S):
            if not all(each.is_running() and each.status() != "zombie" for each in processes):
                end()
                return

    if processes:
        threading.Thread(target=_watch, daemon=True).start()
    try:
        yield
    finally:
        block_ended.set()


def _read_command(process: object) -> list[str]:
    """Return the command line of a process; empty if it exited or access is denied."""
    import psutil

    try:
        return process.cmdline()  # type: ignore[attr-defined,no-any-return]
    except psutil.Error:
        return []
