"""ui: MLflow's UI over the store, or optuna-dashboard over the studies, until somebody ends it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eyevsai.core.errors import JobError, UserError
from eyevsai.store.backend import check_server, open_store
from eyevsai.store.uris import find_store, mask_password, sqlite_path, studies_dir
from eyevsai.tracking.experiment import page_of_runs
from eyevsai.workflows.shutdown import handling_signals

START_S, END_S, POLL_S = 120.0, 4.0, 0.2
OUTPUT_LINES = 20  # of what the UI said, when it ends by itself
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# one of which is set where Linux can show a browser
DISPLAYS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")


@dataclass(frozen=True)
class Window:
    """Where a page is shown: an address of this machine, and whether a browser is opened on it."""

    host: str
    port: int
    browser: bool

    @property
    def url(self) -> str:
        """The address as a browser of this machine takes it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def check(self) -> None:
        """Raises UserError when nothing can listen there."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            socket.create_server((self.host, self.port), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"Port {self.port} is taken by another program, maybe by another eyevsai ui. "
                    f"Choose one with --port, such as --port {_free_port(self.host, family)}."
                ) from error
            why = str(error.strerror or error).partition(" (while")[0]  # Python repeats the address
            raise UserError(
                f"Nothing can listen at {self.host}:{self.port}: {why}. Check --host and --port."
            ) from error

    def show(self, what: str, page: str = "") -> None:
        """Says where something is shown, and opens a browser there."""
        print(f"{what}: {self.url}")
        if self.host not in LOOPBACK:
            print(
                f"Whoever reaches {self.host}:{self.port} sees and changes everything in it: "
                "there is no login."
            )
        print("Ctrl-C ends it.", flush=True)
        open_browser(self.url + page, self.browser)


def open_browser(url: str, wanted: bool) -> None:
    """Opens a browser, where it is wanted and this machine can show one."""
    if wanted and (sys.platform in ("darwin", "win32") or any(map(os.environ.get, DISPLAYS))):
        webbrowser.open(url)


def find_server() -> str | None:
    """The address of the server that keeps the store, once it has answered; None for a store of
    another kind.
    """
    uri = find_store()
    if not uri.startswith("http"):
        return None
    check_server(uri)
    return uri


def show_store(window: Window, *, verbose: bool) -> None:
    """Serves MLflow's UI over the store, which is no server, until this process is asked to end.

    Raises:
        UserError: the store or the address cannot be used.
        JobError: the UI ended by itself.
    """
    uri = open_store()
    window.check()

    with _stopping_at_hangup(), _mlflow_ui(uri, window, verbose) as (process, said):
        page = page_of_runs(uri)
        _wait_until_ready(f"{window.url}/health", process, said)
        window.show(f"MLflow's UI over {mask_password(uri)}", page)
        process.wait()
        raise _ended(said)


def show_studies(window: Window, storage: str | None, state_dir: Path) -> None:
    """Serves optuna-dashboard over the studies beside the store, or in a database, until this
    process is asked to end.

    Raises:
        UserError: there are none, or the address cannot be used, or optuna-dashboard is not
            installed.
    """
    folder = studies_dir(find_store(), state_dir)
    window.check()
    from eyevsai.tuning.dashboard import serve_studies

    with _stopping_at_hangup(), serve_studies(folder, storage, window.host, window.port) as server:
        window.show(f"The studies in {mask_password(storage) if storage else folder}")
        server.serve_forever()


@contextmanager
def _stopping_at_hangup() -> Iterator[None]:
    """Inside the block signals end what is served, that of a terminal which was closed, too."""
    with handling_signals() as stop:
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and threading.current_thread() is threading.main_thread():
            signal.signal(hangup, lambda *_: stop.handle(signal.SIGTERM, None))
        yield


@contextmanager
def _mlflow_ui(
    uri: str, window: Window, verbose: bool
) -> Iterator[tuple[subprocess.Popen[str], deque[str]]]:
    """MLflow's UI as a process, the first of a session, which ends with the block; and the last
    lines that it says.
    """
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", window.host]
    command += ["--port", str(window.port)]
    # where an experiment that is made in the UI keeps its files
    if (path := sqlite_path(uri)) is not None:
        command += ["--default-artifact-root", str(path.parent / "mlruns")]
    # the address as a variable, since others see a command line; workers for what no classifier
    # needs take 0.6 GB
    env = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    said: deque[str] = deque(maxlen=OUTPUT_LINES)
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        threading.Thread(target=_listen, args=(process, said, verbose), daemon=True).start()
        yield process, said
    finally:
        _end(process)


def _listen(process: subprocess.Popen[str], said: deque[str], verbose: bool) -> None:
    for line in process.stdout or ():
        said.append(line.rstrip())
        if verbose:
            print(line, end="", file=sys.stderr)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


def _wait_until_ready(url: str, process: subprocess.Popen[str], said: deque[str]) -> None:
    # no proxy leads back to this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), opener.open(url, timeout=2):
            return
        time.sleep(POLL_S)
    raise _ended(said)


def _ended(said: deque[str]) -> JobError:
    time.sleep(POLL_S)  # its last words may still be on their way
    return JobError("\n".join(["MLflow's UI ended by itself. It last said:", *said]))


def _free_port(host: str, family: socket.AddressFamily) -> int:
    with socket.create_server((host, 0), family=family) as probe:
        return int(probe.getsockname()[1])
