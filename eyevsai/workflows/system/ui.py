"""Workflow of `ui`: MLflow's UI for the store, or optuna-dashboard for the studies."""

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
from eyevsai.core.process_tree import end_group, start_group, wait_for_end
from eyevsai.store.backend import check_server, open_store
from eyevsai.store.ui_links import make_link
from eyevsai.store.uris import find_store, mask_password, sqlite_path, studies_dir
from eyevsai.tracking.experiment_view import page_of_runs
from eyevsai.workflows.shutdown import handling_signals

# time limits of the start and the end of the UI, and the interval of polling
START_S, END_S, POLL_S = 120.0, 4.0, 0.2
OUTPUT_LINES = 20  # last lines of output in the error if the UI exits
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# environment variables, of which one is set if a browser can be opened on Linux
DISPLAYS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")


@dataclass(frozen=True)
class Window:
    """Address of a UI on this machine."""

    host: str
    port: int
    browser: bool  # open a browser at the address

    @property
    def url(self) -> str:
        """URL for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def check(self) -> None:
        """Raise UserError if no server can listen at the address."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            socket.create_server((self.host, self.port), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"Port {self.port} is in use by another program, possibly another eyevsai ui. "
                    f"Choose another one, such as --port {_free_port(self.host, family)}."
                ) from error
            # Python appends the address in parentheses
            reason = str(error.strerror or error).partition(" (while")[0]
            raise UserError(
                f"Cannot listen at {self.host}:{self.port}: {reason}. Check --host and --port."
            ) from error

    def show(self, title: str, page: str = "") -> None:
        """Print the URL of the path `page` after a title, and open it in a browser if enabled."""
        print(f"{title}: {self.url}{page}")
        if self.host not in LOOPBACK:
            print(
                f"There is no login: anyone who can reach {self.host}:{self.port} can read and "
                "change everything."
            )
        print("Press Ctrl-C to stop.", flush=True)
        open_browser(self.url + page, self.browser)


def open_browser(url: str, enabled: bool) -> None:
    """Open a browser if `enabled` and if this machine has a display."""
    if enabled and (sys.platform in ("darwin", "win32") or any(map(os.environ.get, DISPLAYS))):
        webbrowser.open(url)


def find_server() -> str | None:
    """Return the URI of the tracking server; None if the store is not a server.

    Raises:
        UserError: the server is unreachable, or its URI contains credentials.
    """
    uri = find_store()
    if not uri.startswith("http"):
        return None
    check_server(uri)
    return uri


def show_server(uri: str, *, browser: bool) -> None:
    """Print the URL of the runs on a tracking server, and open it in a browser if enabled.

    Args:
        uri: URI of the server.
        browser: open a browser.
    """
    url = make_link(uri, page_of_runs(uri))
    print(f"MLflow's UI: {url}")
    open_browser(url, browser)


def show_store(window: Window, *, verbose: bool) -> None:
    """Serve MLflow's UI for a store that is not a server, until this process gets a signal.

    Args:
        window: address of the UI.
        verbose: print the output of MLflow.

    Raises:
        UserError: the store or the address is unusable.
        JobError: the UI did not start, or exited.
    """
    uri = open_store()
    window.check()

    with _stopping_at_hangup(), _mlflow_ui(uri, window, verbose) as (process, output):
        page = page_of_runs(uri)
        _wait_until_ready(f"{window.url}/health", process, output)
        window.show(f"MLflow's UI for {mask_password(uri)}", page)
        wait_for_end(process)
        raise _exit_error(output)


def show_studies(window: Window, storage: str | None, state_dir: Path) -> None:
    """Serve optuna-dashboard for the studies, until this process gets a signal.

    Args:
        window: address of the dashboard.
        storage: URL of a database with the studies; None for the default folder of studies.
        state_dir: folder of run state, which contains the studies if the store is not a SQLite
            file.

    Raises:
        UserError: there are no studies, the address is unusable, or optuna-dashboard is not
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
    """Handle signals inside the block; SIGHUP of a closed terminal has the effect of SIGTERM."""
    with handling_signals() as stop:
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and threading.current_thread() is threading.main_thread():
            signal.signal(hangup, lambda *_: stop.handle(signal.SIGTERM, None))
        yield


@contextmanager
def _mlflow_ui(
    uri: str, window: Window, verbose: bool
) -> Iterator[tuple[subprocess.Popen[str], deque[str]]]:
    """Yield the process of MLflow's UI, and a deque with its last lines of output.

    The process leads a group of its own, so that all its workers can be ended with the block.

    Args:
        uri: URI of the store.
        window: address of the UI.
        verbose: print the output of MLflow.
    """
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", window.host]
    command += ["--port", str(window.port)]
    # artifacts of experiments that are created in the UI
    if (path := sqlite_path(uri)) is not None:
        command += ["--default-artifact-root", (path.parent / "mlruns").as_posix()]
    # The URI is an environment variable, because other users can read command lines. Job execution
    # is disabled, because its workers take 0.6 GB and classifiers do not need them. Telemetry of
    # the server includes that of the pages in the browser.
    env = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    output: deque[str] = deque(maxlen=OUTPUT_LINES)
    process = start_group(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        threading.Thread(target=_read_output, args=(process, output, verbose), daemon=True).start()
        yield process, output
    finally:
        end_group(process, END_S)


def _read_output(process: subprocess.Popen[str], output: deque[str], verbose: bool) -> None:
    """Append the lines that a process prints to `output`; print them too if `verbose`."""
    for line in process.stdout or ():
        output.append(line.rstrip())
        if verbose:
            print(line, end="", file=sys.stderr)


def _wait_until_ready(url: str, process: subprocess.Popen[str], output: deque[str]) -> None:
    """Wait until the URL responds; raise JobError if the process exits or takes `START_S`."""
    # a proxy could not reach this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), opener.open(url, timeout=2):
            return
        time.sleep(POLL_S)
    raise _exit_error(output)


def _exit_error(output: deque[str]) -> JobError:
    time.sleep(POLL_S)  # the last lines of output may not have been read yet
    return JobError("\n".join(["MLflow's UI exited or did not start. Its last output:", *output]))


def _free_port(host: str, family: socket.AddressFamily) -> int:
    with socket.create_server((host, 0), family=family) as probe:
        return int(probe.getsockname()[1])
