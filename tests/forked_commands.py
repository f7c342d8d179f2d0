"""Commands in a fork of the test's process, which imports nothing anew: for signals and exit
codes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Fork:
    """A fork that runs a command, and the files of what it prints."""

    pid: int
    out: Path
    err: Path
    code: int | None = None  # once it has ended; negative for a signal that ended it

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Wait for something that the command does; fail when it ends before."""
        while not happened():
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), self.err.read_text()
            time.sleep(0.01)

    def end(self, number: signal.Signals) -> int:
        """Send a signal; return the exit code, negative for a signal that ended it."""
        os.kill(self.pid, number)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> None:
        """End it if it runs."""
        with suppress(ProcessLookupError, ChildProcessError):
            if self.code is None:
                self.end(signal.SIGKILL)


def fork_command(folder: Path, *arguments: str) -> Fork:
    """Run `eyevsai ARGUMENTS` in a fork; what it prints goes to two files in `folder`."""
    from eyevsai.cli.main import main

    out, err = folder / "fork.out", folder / "fork.err"
    out.touch()
    err.touch()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            with (
                out.open("w") as stdout,
                err.open("w") as stderr,
                redirect_stdout(stdout),
                redirect_stderr(stderr),
            ):
                main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    return Fork(child, out, err)
