"""Child processes that lead a group of their own, their end, and signals, on all systems.

Windows has neither SIGTERM nor groups of processes that can be killed. There, CTRL_BREAK_EVENT asks
a group to end, which Python receives as SIGBREAK, and the processes to kill are found by their
parents. No other module uses names that exist on one system only.
"""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

WAIT_S = 0.1
# signals that ask a process to end, besides the SIGINT of Ctrl-C
if sys.platform == "win32":
    TERMINATION_SIGNALS = (signal.SIGTERM, signal.SIGBREAK)
else:
    TERMINATION_SIGNALS = (signal.SIGTERM,)


def start_group(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process that leads a group of its own: Ctrl-C in a terminal does not reach it.

    `options` are those of `subprocess.Popen`.
    """
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, creationflags=flags, **options)
    return subprocess.Popen(command, start_new_session=True, **options)


def request_end(process: subprocess.Popen[Any]) -> None:
    """Ask the leader of a group to end; on Windows, the other processes of the group are asked too.

    A process without a console cannot be asked on Windows, and is killed.
    """
    if sys.platform != "win32":
        process.terminate()
        return
    try:
        process.send_signal(signal.CTRL_BREAK_EVENT)
    except OSError:
        process.terminate()


def end_group(process: subprocess.Popen[Any], grace_s: float) -> None:
    """End a group: ask all its processes to end, and kill them after `grace_s` seconds.

    Processes that outlive the leader are killed when it has ended.
    """
    if sys.platform == "win32":
        request_end(process)
    else:
        _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    kill_group(process)


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill all processes of a group, whose leader may have ended, and wait for the leader."""
    if sys.platform == "win32":
        descendants = find_descendants(process.pid)
        process.kill()
        _kill_all(descendants)
    else:
        _signal_group(process, signal.SIGKILL)
    process.wait()


def wait_for_end(process: subprocess.Popen[Any]) -> int:
    """Wait until a process ends, and return its exit code. Ctrl-C interrupts the wait.

    On Windows, `Popen.wait` without a timeout cannot be interrupted.
    """
    while (code := process.poll()) is None:
        time.sleep(WAIT_S)
    return code


def terminate_this_process() -> None:
    """Send SIGTERM to this process, from any thread. The main thread runs the handler of SIGTERM.

    On Windows, `os.kill` would end the process without running the handler.
    """
    if sys.platform == "win32":
        _thread.interrupt_main(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def ignore_group_signals() -> None:
    """Ignore the signals that a whole group receives; for workers that their parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)


def find_parent() -> psutil.Process:
    """Return the process that started this one.

    On Windows, `python.exe` of a virtual environment only starts the real Python and waits for it:
    the result is then the process that started `python.exe`.

    Raises:
        psutil.NoSuchProcess: the parent has ended, on Windows. Elsewhere, another process has then
            become the parent.
    """
    import psutil

    if sys.platform != "win32":
        return psutil.Process(os.getppid())
    own = psutil.Process()
    parents = own.parents()
    if len(parents) > 1 and _is_launcher(parents[0], own):
        parents = parents[1:]
    if not parents:
        raise psutil.NoSuchProcess(os.getppid())
    return parents[0]


def _is_launcher(parent: psutil.Process, own: psutil.Process) -> bool:
    """Return True if the parent is the `python.exe` of the virtual environment of this process."""
    import psutil

    try:
        launcher = os.path.normcase(parent.exe())
        return launcher == os.path.normcase(sys.executable) != os.path.normcase(own.exe())
    except (psutil.Error, OSError):
        return False


def find_descendants(pid: int) -> list[psutil.Process]:
    """Return the running descendants of a process.

    On Windows, the process may have ended: its children keep its id as that of their parent, and no
    other process gets the id while a `Popen` of it exists. Descendants of another process that has
    ended are not found.
    """
    import psutil

    children = defaultdict[int, list[psutil.Process]](list)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            children[process.ppid()].append(process)
    descendants: list[psutil.Process] = []
    parents = [(pid, 0.0)]
    while parents:
        parent, started = parents.pop()
        for process in children.pop(parent, ()):
            with suppress(psutil.Error):
                # an older process has the id of a former parent, which this one got later
                if process.create_time() >= started:
                    descendants.append(process)
                    parents.append((process.pid, process.create_time()))
    return descendants


def _kill_all(processes: Iterable[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
