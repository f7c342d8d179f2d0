"""Installation with pip that shows its progress: pip's own bars on a terminal, lines in a log.

    python eyevsai/core/installer.py --expect "3.3 GB to download, 3 minutes" --editable ".[dev]"

The Makefile runs this file by its path before anything is installed: it imports only the standard
library, and nothing of eyevsai.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, NoReturn

INTERVAL_S = 30.0
STOP_S = 10.0  # for pip to delete its temporary files after an interrupt
TAIL_LINES = 25  # of pip's output, printed if it fails

UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
REQUIREMENT = re.compile(r"\s*Collecting ([A-Za-z0-9._-]+)")
# a name ends where the version begins; before it, an index with direct links has a URL
FILE = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:\S*/)?(?P<name>[A-Za-z0-9._-]+?)-\d\S*?"
    r"(?P<metadata>\.metadata)?(?: \((?P<size>[\d.]+) (?P<unit>bytes|kB|MB|GB)\)|\s|$)"
)
BUILD = re.compile(r"\s*Building (?:wheel|editable) for (\S+)")
# lines that explain a delay, or a result that needs action, although pip may succeed
NOTABLE = re.compile(r"\s*(WARNING: Retrying|ERROR: |\S+ \S+ requires .+, (but|which) )")


class Progress:
    """State of an installation, read from pip's output line by line."""

    def __init__(self) -> None:
        self.phase = "starting"  # first word: the kind of phase, printed when it begins
        self.packages: set[str] = set()
        self.downloaded_bytes = 0
        self.installed = 0  # packages that pip has changed, known at its end
        self._current_bytes = 0

    def read(self, line: str) -> None:
        """Update the state from a line of pip's output."""
        if match := REQUIREMENT.match(line):
            self._enter(f"resolving {match[1]}")
            self.packages.add(_normalize(match[1]))
        elif match := FILE.match(line):
            self._read_file(line, match)
        elif match := BUILD.match(line):
            self._enter(f"building {match[1]}")
        elif line.startswith("Installing collected packages: "):
            self._enter(f"installing {_packages(line.count(',') + 1)}")
        elif line.startswith("Successfully installed "):
            self.installed = len(line.split()) - 2

    def describe(self) -> str:
        """Return the phase, and what has been done so far."""
        if self.phase.startswith("installing "):
            return f"{self.phase}: {_gigabytes(measure_packages())} on disk so far"
        if not self.packages:
            return self.phase
        files = _gigabytes(self.downloaded_bytes)
        return f"{self.phase}: {_packages(len(self.packages))}, {files} downloaded so far"

    def _read_file(self, line: str, match: re.Match[str]) -> None:
        name = match["name"]
        if match["metadata"]:
            self._enter(f"resolving {name}")
            return
        self.packages.add(_normalize(name))
        if not line.lstrip().startswith("Downloading"):
            self._enter(f"resolving {name}")
            return
        size = f" ({match['size']} {match['unit']})" if match["size"] else ""
        self._enter(f"downloading {name}{size}")
        if match["size"]:
            self._current_bytes = int(float(match["size"]) * UNITS[match["unit"]])

    def _enter(self, phase: str) -> None:
        """Begin a phase; pip downloads one file at a time, so that the file before is complete."""
        self.downloaded_bytes += self._current_bytes
        self._current_bytes = 0
        self.phase = phase


def run_pip(arguments: Sequence[str], *, expect: str = "", interval_s: float = INTERVAL_S) -> int:
    """Run `pip install` and show its progress on stdout; return the exit code of pip.

    On a terminal, pip prints its own progress. Otherwise a line is printed at the start, at the
    start of each phase, every `interval_s` seconds, and at the end. If pip fails, the end of its
    output follows on stderr. An exception, for example KeyboardInterrupt, ends pip first.

    Args:
        arguments: arguments of `pip install`.
        expect: expected size and duration, for the first line.
        interval_s: seconds between two lines.
    """
    names = " ".join(word for word in arguments if not word.startswith("-"))
    expectation = f": {expect}" if expect else ""
    _print(f"Installing {names} into {sys.prefix}{expectation}.")
    began = time.monotonic()
    if sys.stdout.isatty():
        code, installed = _run_on_terminal(arguments), None
    else:
        code, installed = _run_in_log(arguments, began, interval_s)
    if code == 0:
        packages = "Installed" if installed is None else f"Installed {_packages(installed)}"
        size = _gigabytes(measure_packages())
        _print(f"{packages} in {_clock(began)}; the environment has {size}.")
    return code


def measure_packages() -> int:
    """Return the number of bytes of this environment's packages."""
    total = 0
    for folder, _, names in os.walk(sysconfig.get_path("purelib")):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _run_on_terminal(arguments: Sequence[str]) -> int:
    """Run pip with its own progress bars and questions."""
    process = subprocess.Popen([*_pip(), *arguments])
    try:
        return _exit_code(process.wait())
    except KeyboardInterrupt:  # the terminal has interrupted pip, too
        _end(process, None)
        raise
    except BaseException:
        _end(process, signal.SIGTERM)
        raise


def _run_in_log(arguments: Sequence[str], began: float, interval_s: float) -> tuple[int, int]:
    """Run pip and print lines; return its exit code and the number of installed packages."""
    with _interruptible():
        process = subprocess.Popen(
            [*_pip(), "--no-input", "--progress-bar", "off", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            process_group=0,  # an interrupt reaches pip once, from here
        )
    progress, tail, kinds = Progress(), deque[str](maxlen=TAIL_LINES), {"starting"}
    try:
        assert process.stdout is not None
        for line in _read_lines(process.stdout, interval_s):
            if line is not None:
                progress.read(line)
                tail.append(line)
                if NOTABLE.match(line):
                    _print(f"{_clock(began)} pip: {line.strip()}")
            kind = progress.phase.partition(" ")[0]
            if line is None or kind not in kinds:
                _print(f"{_clock(began)} {progress.describe()}")
                kinds.add(kind)
        code = _exit_code(process.wait())
    except BaseException:
        if sys.platform != "win32":  # there, Ctrl-C reaches all processes of the console
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        _end(process, None)
        with suppress(OSError):  # the exception can be that nobody reads stdout
            _print(f"{_clock(began)} interrupted while {progress.phase}")
        raise
    if code:
        sys.stdout.flush()
        sys.stderr.write("".join(tail))
        sys.stderr.flush()
    return code, progress.installed


@contextmanager
def _interruptible() -> Iterator[None]:
    """Start processes that do not ignore SIGINT, as the background jobs of a shell do.

    pip deletes its temporary files, which can have gigabytes, only after SIGINT.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_lines(stream: IO[str], interval_s: float) -> Iterator[str | None]:
    """Yield the lines of a stream as they arrive, and None whenever `interval_s` has passed."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    tick = time.monotonic() + interval_s
    while True:
        if (remaining_s := tick - time.monotonic()) <= 0:
            tick = time.monotonic() + interval_s
            yield None
            continue
        with suppress(queue.Empty):
            if (line := lines.get(timeout=remaining_s)) is None:
                return
            yield line


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes], number: int | None) -> None:
    """Send a signal, if one is given, wait until the process ends, and kill it after `STOP_S`."""
    if number is not None:
        process.send_signal(number)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pip() -> list[str]:
    # -P: modules of the working directory must not replace those of Python
    return [sys.executable, "-P", "-m", "pip", "install", "--disable-pip-version-check"]


def _exit_code(code: int) -> int:
    """Return the code of a shell for a process that a signal has ended."""
    return code if code >= 0 else 128 - code


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _packages(count: int) -> str:
    return f"{count} package{'' if count == 1 else 's'}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _clock(began: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02}"


def _print(line: str) -> None:
    print(line, flush=True)


def _terminate(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(words: Sequence[str]) -> int:
    """Run pip with the arguments in `words`; return its exit code, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--expect", default="")
    parser.add_argument("--interval", type=float, default=INTERVAL_S)
    options, arguments = parser.parse_known_args(words)
    signal.signal(signal.SIGTERM, _terminate)
    began = time.monotonic()
    try:
        code = run_pip(arguments, expect=options.expect, interval_s=options.interval)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if code:
        print(
            f"pip failed with exit code {code} after {_clock(began)}; the end of its output is "
            "above. Fix the cause, and run the command again.",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
