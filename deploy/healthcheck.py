"""Health check of the image of eyevsai.Dockerfile: prints one line and exits with 1 if it fails.

    python deploy/healthcheck.py [PID]

PID is the main process, 1 in a container. A server must respond. For a job, the working folder must
be writable, and its runs must record heartbeats. Requires only Python's standard library.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVERS = (  # commands that serve until they are stopped
    ("mlflow", "models", "serve"),
    ("mlflow", "server"),
    ("mlflow", "ui"),
    ("eyevsai", "ui"),
    ("eyevsai", "serve"),
)
HEALTH_PAGE, OPTUNA_PAGE, READY_PAGE = "/health", "/", "/v2/health/ready"
MLFLOW_PORT, OPTUNA_PORT, SERVE_PORT = 5000, 8080, 5080
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
TIMEOUT_S, STALE_AFTER_S = 5.0, 60.0
STATE_DIR = "~/.local/state/eyevsai"
STOPPED, ENDED = "Tt", "ZX"  # states of a process in /proc


def find_command(words: Sequence[str]) -> list[str]:
    """Return the part of a command line that begins with the name of MLflow or eyevsai.

    Empty if it contains neither. Words before it are Python, or an init such as that of --init.
    """
    programs = {command[0] for command in SERVERS}
    for position, word in enumerate(words):
        if (name := Path(word).name) in programs:
            return [name, *words[position + 1 :]]
    return []


def find_server(command: Sequence[str], env: Mapping[str, str]) -> tuple[str, int, str] | None:
    """Return host, port and page of the server that a command starts; None for a job.

    MLflow's commands read host and port from the environment if they have no option.
    """
    names = [word for word in command if not word.startswith("-")]
    if not any(tuple(names[: len(server)]) == server for server in SERVERS):
        return None
    options = parse_options(command)
    variables = env if command[0] == "mlflow" else {}
    host = options.host or variables.get("MLFLOW_HOST") or "127.0.0.1"
    default_port, page = MLFLOW_PORT, HEALTH_PAGE
    if options.optuna:
        default_port, page = OPTUNA_PORT, OPTUNA_PAGE
    elif names[:2] == ["eyevsai", "serve"]:
        default_port, page = SERVE_PORT, READY_PAGE
    port = int(options.port or variables.get("MLFLOW_PORT") or default_port)
    return ANY_ADDRESS.get(host, host), port, page


def parse_options(command: Sequence[str]) -> argparse.Namespace:
    """Return the options that the checks need; all others are ignored."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (("--port", "-p"), ("--host", "-h"), ("--state-dir",)):
        parser.add_argument(*names, nargs="?")  # no error for another program's option
    parser.add_argument("--optuna", action="store_true")
    return parser.parse_known_args(command)[0]


def check_process(pid: int) -> str:
    """Return the reason why a process does not run; "" if it does."""
    state, _ = _read_stat(pid)
    if state in ENDED:
        return f"The main process (PID {pid}) has ended."
    return f"The main process (PID {pid}) is stopped." if state in STOPPED else ""


def check_server(host: str, port: int, page: str) -> str:
    """Return the reason why a server is unusable; "" if it responds to a request for the page."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{page}"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", page)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"The server is unreachable: {url}: {error or type(error).__name__}."
    finally:
        connection.close()
    return "" if status == http.HTTPStatus.OK else f"The server is not ready: {url}: {status}."


def check_working_folder() -> str:
    """Return the reason why no file can be written to the working folder; "" if one can."""
    try:
        with tempfile.TemporaryFile(dir=".") as file:
            file.write(b"0")  # a full disk accepts empty files
            file.flush()
    except OSError as error:
        return f"The working folder is not writable: {error.strerror or error}."
    return ""


def check_runs(state_dir: Path, since: float) -> str:
    """Return the first run whose process has stopped recording heartbeats; "" if there is none.

    Run directories of finished runs remain if their writes are pending, so only those whose lock is
    held count.

    Args:
        state_dir: folder of run state.
        since: start of the main process in seconds since 1970. Until a run that is resumed records
            its first heartbeat, the last one is older.
    """
    locks = Path("/proc/locks").read_text() if Path("/proc/locks").exists() else ""
    locked = {line.split()[-3].rpartition(":")[2] for line in locks.splitlines()}
    for folder in sorted(state_dir.glob("runs/*")):
        try:
            inode, heartbeat = (folder / "lock").stat().st_ino, (folder / "heartbeat").stat()
        except OSError:  # a run that has just begun or ended
            continue
        age_s = time.time() - heartbeat.st_mtime
        if str(inode) in locked and heartbeat.st_mtime > since and age_s > STALE_AFTER_S:
            return f"Run {folder.name} recorded its last heartbeat {age_s:.0f} s ago."
    return ""


def find_failure(pid: int, env: Mapping[str, str]) -> str:
    """Return the first failure of a container whose main process is `pid`; "" if it is healthy."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
        command = find_command(words)
        if failure := check_process(pid):
            return failure
        _, since = _read_stat(pid)
    except OSError:
        return f"The main process (PID {pid}) does not exist."
    if (server := find_server(command, env)) is not None:
        return check_server(*server)
    state_dir = parse_options(command).state_dir or env.get("EYEVSAI_STATE") or STATE_DIR
    return check_working_folder() or check_runs(Path(state_dir).expanduser(), since)


def _read_stat(pid: int) -> tuple[str, float]:
    """Return the state of a process and its start in seconds since 1970.

    Raises:
        OSError: there is no such process.
    """
    # after the name of the program, which can contain spaces and parentheses
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    system = Path("/proc/stat").read_text().splitlines()
    (boot,) = [int(line.split()[1]) for line in system if line.startswith("btime ")]
    return fields[0], boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str]) -> int:
    """Print the failure of the main process, if there is one, and return the exit code."""
    failure = find_failure(int(arguments[0]) if arguments else 1, os.environ)
    if failure:
        print(failure)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
