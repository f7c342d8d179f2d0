"""Installer: pip's progress in a log and on a terminal, its failures, its interruption."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import venv
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from eyevsai.core.installer import Progress
from tests.conftest import ROOT
from tests.ranges import read_project

INSTALLER = ROOT / "eyevsai" / "core" / "installer.py"
LIMIT_S = 60.0
EXPECTED = "at most 3 GB"

# Prints the lines of a script. `wait NAME` waits for a file, so that a test decides when it goes
# on; `exit CODE` ends it. An interrupt is recorded, as pip deletes its temporary files then.
FAKE_PIP = """
import json, sys, time
from pathlib import Path

folder = Path(__file__).parents[5]
(folder / "arguments.json").write_text(json.dumps([sys.argv[1:], sys.stdout.isatty()]))
try:
    for line in (folder / "script.txt").read_text().splitlines():
        command, _, value = line.partition(" ")
        if command == "wait":
            deadline = time.monotonic() + 100  # of a test that has failed
            while not (folder / value).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        elif command == "exit":
            sys.exit(int(value))
        else:
            print(line)
except KeyboardInterrupt:
    with open(folder / "interrupted", "a") as file:
        file.write("once ")
    sys.exit(1)
"""
# recorded from pip 23.2, shortened
RECORDED = """\
Obtaining file:///work/eyevsai
  Installing build dependencies: started
WARNING: Location 'file:///opt/none/' is ignored: it is neither a file nor a directory.
Collecting torch>=2.10 (from eyevsai==0.1.0)
  Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (539.1 MB)
wait torch
Collecting scikit-learn>=1.6 (from eyevsai==0.1.0)
WARNING: Retrying (Retry(total=4, connect=None)) after connection broken: /scikit-learn/
Processing /opt/pypi/files/scikit_learn-1.9.1-cp311-cp311-manylinux_2_28_x86_64.whl (from eyevsai)
Building wheels for collected packages: eyevsai
  Building editable for eyevsai (pyproject.toml): started
Installing collected packages: torch, scikit-learn, eyevsai
wait install
ERROR: pip's dependency resolver does not currently take into account all installed packages.
kaleido 1.0 requires numpy<2, but you have numpy 2.4.6 which is incompatible.
Successfully installed eyevsai-0.1.0 scikit-learn-1.9.1 torch-2.15.0
"""


class Environment:
    """Environment whose pip prints a script, and whose packages have 2.6 GB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (packages / "pip").mkdir()
        (packages / "pip" / "__main__.py").write_text(FAKE_PIP)
        with open(packages / "torch.so", "wb") as file:
            file.truncate(2_600_000_000)  # sparse

    @property
    def arguments(self) -> list[str]:
        """Arguments that pip got."""
        return list(json.loads((self.folder / "arguments.json").read_text())[0])

    @property
    def was_on_terminal(self) -> bool:
        """True if pip printed to a terminal."""
        return bool(json.loads((self.folder / "arguments.json").read_text())[1])

    @property
    def interrupts(self) -> str:
        """Interrupts that pip got."""
        path = self.folder / "interrupted"
        return path.read_text() if path.exists() else ""

    def script(self, text: str) -> None:
        """Set the lines that pip prints."""
        (self.folder / "script.txt").write_text(text)

    def let_go(self, name: str) -> None:
        """End a wait of pip."""
        (self.folder / name).touch()

    def command(self, *words: str) -> list[str]:
        """Return the installer's command, by an interpreter with Python's library alone."""
        return [str(self.python), str(INSTALLER), "--expect", EXPECTED, *words]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.fixture
def start(environment: Environment) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts the installer, with its output in pipes."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str, shell: str = 'exec "$@"') -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = ["sh", "-c", shell, "sh", *environment.command(*words)]
        processes.append(subprocess.Popen(command, text=True, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], pattern: str, times: int = 1) -> list[str]:
    """Return the lines of a process up to the line that matches for the `times`-th time."""
    assert process.stdout is not None
    lines: list[str] = []
    while times:
        lines.append(process.stdout.readline().rstrip("\n"))
        assert lines[-1] or process.poll() is None, lines
        times -= bool(re.search(pattern, lines[-1]))
    return lines


def test_log_has_expectation_phases_and_a_line_per_interval(
    environment: Environment, start: Callable[..., subprocess.Popen[str]]
) -> None:
    environment.script(RECORDED)
    process = start("--interval", "0.1", "--editable", ".[dev]")
    # each line is read while pip waits: none is kept in a buffer
    torch = r"^\d:\d\d downloading torch \(539\.1 MB\): 1 package, 0\.0 GB downloaded so far$"
    lines = read_until(process, torch, times=3)
    assert lines[0] == f"Installing .[dev] into {environment.folder / 'venv'}: {EXPECTED}."
    environment.let_go("torch")
    installing = r"^\d:\d\d installing 3 packages: 2\.6 GB on disk so far$"
    lines += read_until(process, installing, times=3)
    environment.let_go("install")
    rest, errors = process.communicate(timeout=LIMIT_S)
    lines += rest.splitlines()

    assert process.returncode == 0
    assert not errors
    assert re.fullmatch(
        r"Installed 3 packages in \d:\d\d; the environment has 2\.6 GB\.", lines[-1]
    )
    text = "\n".join(lines)
    assert re.search(r"pip: WARNING: Retrying \(Retry", text)
    assert "pip: kaleido 1.0 requires numpy<2, but you have" in text
    assert "building eyevsai: 2 packages, 0.5 GB downloaded so far" in text
    assert "is ignored" not in text
    assert "Collecting" not in text
    assert environment.arguments[:2] == ["install", "--disable-pip-version-check"]
    assert environment.arguments[-4:] == ["--progress-bar", "off", "--editable", ".[dev]"]
    assert not environment.was_on_terminal


@pytest.mark.processes("make fails, and then succeeds")
def test_make_marks_only_what_was_installed(environment: Environment) -> None:
    folder, target = environment.folder / "venv", "installed-dev"
    (folder / "python").touch()  # the marker of `make` for an environment that exists
    make = ["make", "--no-print-directory", f"VENV={folder}", f"{folder}/{target}"]
    environment.script("Obtaining it\nERROR: No matching distribution found for torch\nexit 7\n")
    failed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "ERROR: No matching distribution found for torch" in failed.stderr
    assert "pip failed with exit code 7 after 0:" in failed.stderr
    assert "Installed" not in failed.stdout
    assert not (folder / target).exists()

    environment.script("Successfully installed eyevsai-0.1.0\n")
    finished = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert re.search(
        r"^Installing \.\[dev\] into .*: at most [\d.]+ GB to download and [\d.]+ GB on disk, "
        r"\d to \d minutes on 2 cores with a quick index\.\n",
        finished.stdout,
    )
    assert "Installed 1 package " in finished.stdout
    # the extra dev contains the extra docs
    assert {"installed", "installed-docs", target} <= {path.name for path in folder.iterdir()}
    extras = read_project()["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["dev"])


def test_exit_code_and_last_lines_are_those_of_pip(
    environment: Environment, start: Callable[..., subprocess.Popen[str]]
) -> None:
    environment.script("".join(f"line {number}\n" for number in range(100)) + "exit 7\n")
    process = start("torch")
    output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 7
    assert "line 99\npip failed with exit code 7" in errors
    assert errors.startswith("line 75\n")
    assert "line 9" not in output
    assert "Installed" not in output


@pytest.mark.parametrize(
    ("number", "code", "shell"),
    [
        (signal.SIGINT, 130, 'exec "$@"'),
        (signal.SIGTERM, 143, 'trap "" INT; exec "$@"'),  # as background jobs are started
    ],
)
def test_interrupt_ends_pip_once_and_first(
    number: signal.Signals,
    code: int,
    shell: str,
    environment: Environment,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    environment.script("Collecting torch\n  Downloading torch-2.15.0.whl (539.1 MB)\nwait never\n")
    process = start("torch", shell=shell)
    read_until(process, "downloading torch")
    process.send_signal(number)
    output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code
    assert environment.interrupts == "once "
    assert "interrupted while downloading torch (539.1 MB)" in output
    assert not errors


@pytest.mark.parametrize("interrupt", [False, True])
def test_terminal_has_the_progress_of_pip_itself(interrupt: bool, environment: Environment) -> None:
    environment.script(f"Collecting torch\nwait {'never' if interrupt else 'go'}\n")
    child, terminal = pty.fork()
    if child == 0:
        command = environment.command("torch")
        os.execv(command[0], command)
    printed = b""
    with closing(os.fdopen(terminal, "r+b", buffering=0)) as screen:
        while b"Collecting torch" not in printed:
            printed += screen.read(4096)
        if interrupt:
            screen.write(b"\x03")  # Ctrl-C
        else:
            environment.let_go("go")
        with suppress(OSError):  # its end
            while part := screen.read(4096):
                printed += part
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert environment.was_on_terminal
    assert "--progress-bar" not in environment.arguments
    assert environment.arguments[-1] == "torch"
    assert f": {EXPECTED}." in printed.decode().splitlines()[0]
    assert b"Traceback" not in printed
    if interrupt:
        assert code == 130
        assert environment.interrupts == "once "
    else:
        assert code == 0
        assert re.search(r"Installed in \d:\d\d; the environment has 2\.6 GB\.", printed.decode())


@pytest.mark.parametrize(
    ("line", "description"),
    [
        (
            "Downloading torch-2.9.0-cp311-cp311-manylinux.whl.metadata (30 kB)",
            "resolving torch",
        ),
        (
            "  Downloading https://index/ab/nvidia_cublas_cu12-12.8-py3-none-any.whl (594.3 MB)",
            "downloading nvidia_cublas_cu12 (594.3 MB): 1 package, 0.0 GB downloaded so far",
        ),
        (
            "Using cached Flask_CORS-6.0.5-py3-none-any.whl (16 kB)",
            "resolving Flask_CORS: 1 package, 0.0 GB downloaded so far",
        ),
        (
            "  Downloading backports.tarfile-1.2.0.tar.gz (541 bytes)",
            "downloading backports.tarfile (541 bytes): 1 package, 0.0 GB downloaded so far",
        ),
        ("Requirement already satisfied: torch in /venv/lib (2.15.0)", "starting"),
    ],
)
def test_lines_of_pip_are_read(line: str, description: str) -> None:
    progress = Progress()
    progress.read(line)
    assert progress.describe() == description


def test_a_file_counts_when_pip_goes_on_to_the_next() -> None:
    progress = Progress()
    for line in (
        "Collecting a>=1 (from x)",
        "  Downloading a-1.0.whl (600.0 MB)",
        "Collecting b",
        "  Downloading b-1.0.whl (1.2 GB)",
    ):
        progress.read(line)
    assert progress.describe() == "downloading b (1.2 GB): 2 packages, 0.6 GB downloaded so far"
    progress.read("Collecting c")
    assert progress.describe() == "resolving c: 3 packages, 1.8 GB downloaded so far"
