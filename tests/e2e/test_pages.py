"""README and docs are true: what they tell people to type exists, and is run here, page by page.

`python -m tests.e2e.pages` lists what cannot be run here, and why. With EYEVSAI_FRESH=1, pages
that begin with a clone go the way of a newcomer: a true clone of what is committed, with an
installation of its own: `make first-hour`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import typer.main
import yaml
from PIL import Image

from eyevsai.cli.main import build_app
from eyevsai.cli.project import COMMANDS
from eyevsai.workflows.monitor.settings import MONITOR, monitor_command
from tests.conftest import ROOT, write_images
from tests.e2e.pages import (
    FILE,
    REASONS,
    SHELLS,
    Command,
    Page,
    pattern_of,
    read_page,
    read_pages,
    split_calls,
)

PAGES = read_pages()
FRESH = "EYEVSAI_FRESH" in os.environ
TOOLS = {
    "base64",
    "cd",
    "cp",
    "curl",
    "docker",
    "echo",
    "export",
    "git",
    "kill",
    "ls",
    "mkdir",
    "mlflow",
    "mv",
    "npm",
    "pip",
    "pipx",
    "read",
    "source",
    "sudo",
    "tr",
    "uv",
    "uvicorn",
    "uvx",
}
# images of servers that are not eyevsai's
SERVERS = ("nvcr.io/nvidia/tritonserver", "tensorflow/serving", "openvino/model_server")
FILES = {command.file_name for page in PAGES for command in page.commands}
ENTRIES = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def named(pages: list[Page]) -> dict[str, object]:
    return {"argvalues": pages, "ids": [page.name for page in pages]}


@pytest.mark.parametrize("page", **named([page for page in PAGES if page.commands or page.inline]))
def test_what_a_page_types_exists(page: Page) -> None:
    for command in (*page.commands, *page.inline):
        # others show what a mistake looks like
        if command.language in (*SHELLS, "inline") and command.code == 0:
            for call in split_calls(command.text):
                check(call, command)


def check(call: list[str], command: Command) -> None:
    """Fails when a program, a command, an entry point or a flag that a page names does not
    exist.
    """
    where, loose = f"{command.page}:{command.line}: {command.text}", command.language == "inline"
    if call[:2] == ["mlflow", "run"]:
        entry = call[call.index("-e") + 1]
        assert entry in ENTRIES, where
        given = [call[at + 1].partition("=") for at, word in enumerate(call) if word == "-P"]
        words = [word for name, _, value in given for word in (f"--{name}", value)]
        if entry == MONITOR:
            command_of = monitor_command(words)
        else:
            command_of = [*COMMANDS.get(entry, (entry,)), *words]
        check_eyevsai(command_of, where, loose=loose)
    elif "eyevsai" in call and call[0] in ("eyevsai", "torchrun", "python"):
        check_eyevsai(call[call.index("eyevsai") + 1 :], where, loose=loose)
    elif call[:2] == ["docker", "build"]:
        assert (ROOT / call[call.index("--file") + 1]).is_file(), where
    elif call[:2] == ["docker", "run"] and any(word.startswith(SERVERS) for word in call):
        assert "--rm" in call, where
    elif call[:2] == ["docker", "run"] and "--entrypoint" not in call:
        check_eyevsai(call[call.index("eyevsai") + 1 :], where, loose=loose)
    elif call[0] == "make":
        assert {word for word in call[1:] if "=" not in word} <= set(TARGETS), where
    elif call[:2] == ["python", "-c"]:
        compile(call[2], where, "exec")
    elif call[0] == "python" and call[1] in FILES:
        pass  # a block of a page
    elif call[0] == "python":
        there = importlib.util.find_spec(call[2]) if call[1] == "-m" else (ROOT / call[1]).exists()
        assert there or call[1].endswith("/example.py"), where  # which each export has
    else:
        assert call[0] in TOOLS, where


def check_eyevsai(arguments: list[str], where: str, *, loose: bool) -> None:
    arguments = [word for word in arguments if word != "--help"]
    command, context, rest = typer.main.get_command(build_app(arguments)), None, arguments
    try:
        while True:
            context = command.make_context(command.name or "", list(rest), parent=context)
            if not hasattr(command, "resolve_command"):
                break
            _, command, rest = command.resolve_command(
                context, [*context._protected_args, *context.args]
            )
    except Exception as error:  # of Click, which is Typer's own in some versions, or a UserError
        if not (loose and type(error.__cause__ or error).__name__ == "MissingParameter"):
            pytest.fail(f"{where}: {getattr(error, 'message', '') or error}")
    else:
        assert not context.args, f"{where}: {context.args} belong to nothing"


def test_a_command_that_does_not_exist_is_found() -> None:
    for typed in (
        "eyevsai trian",
        "eyevsai train --lernrate 3",
        "eyevsai export --format onxx --formt x",
        "make trian",
        "mlflow run . -e trian",
        "mlflow run . -e train -P lernrate=3",
        "docker build --file deploy/nothing.Dockerfile .",
        "docker run --rm eyevsai train --lernrate 3",
        "frobnicate",
    ):
        page = read_page("page", f"```console\n$ {typed}\n```")
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            test_what_a_page_types_exists(page)


def test_what_is_not_run_says_why() -> None:
    left = [command for page in PAGES for command in page.commands if command.not_run is not None]
    for command in left:
        print(f"{command.page}:{command.line}: {command.text!r} is not run: {command.not_run}")
    assert [each for each in left if each.reason not in REASONS] == []
    assert {each.reason for each in left} == set(REASONS)


def test_a_page_says_all_that_it_needs() -> None:
    page = read_page(
        "page",
        """
<!-- given: ~/pictures/birds, three classes -->
<!-- not run: network: git -->
```console
$ git clone x   # fetch
$ eyevsai data check \\
    ~/pictures/birds
58 images in 3 classes; ... 0.93 of run 0123456789abcdef0123456789abcdef
```
<!-- exit code 2 -->
```sh
eyevsai train --lr 7
```
```python
print(1)  # prints: 2 of
print()
print(1)  # prints: 3
```
""",
    )
    fetch, look, wrong, program = page.commands
    assert page.given == ("~/pictures/birds",)
    assert (fetch.reason, look.reason, look.code, wrong.code) == ("network", None, 0, 2)
    assert split_calls(look.text) == [["eyevsai", "data", "check", "~/pictures/birds"]]
    other = "60 images in 3 classes; none bad\n 0.88 of run ffffffffffffffffffffffffffffffff"
    assert pattern_of(look.shown).search(other)
    assert not pattern_of(look.shown).search(other.replace("images", "pictures"))
    assert pattern_of(program.shown).search("5 of\n\n5")
    assert not pattern_of(program.shown).search("5\n\n5 of")
    assert pattern_of("...\nthe end\n...").fullmatch("the end")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "page", **named([page for page in PAGES if (page.clones if FRESH else page.runs)])
)
def test_what_a_page_types_does_what_it_says(page: Page, tmp_path: Path) -> None:
    project, home = tmp_path / "project", tmp_path / "home"
    (clone_project if FRESH else make_project)(project)
    home.mkdir()
    for name in page.given:
        give((home / name[2:]) if name.startswith("~/") else project / name)
    commands = [command for command in page.commands if command.not_run is None]
    run(commands, project, home, tmp_path)
    for number, command in enumerate(commands):
        where = f"{page.name}:{command.line}: {command.text}"
        said = tmp_path / f"{number}.said"
        assert said.exists(), f"{where}\nwas not reached"
        text, code = said.read_text(encoding="utf-8"), tmp_path / f"{number}.code"
        ended, seconds = (
            code.read_text().split() if code.exists() else ("nothing: it took too long", "?")
        )
        print(f"{where}\n({seconds} s)\n{text}")
        assert ended == str(command.code), f"{where}\nended with {ended}:\n{text}"
        assert pattern_of(command.shown).search(text), (
            f"{where}\nis said to print\n{command.shown}\nand printed\n{text}"
        )


def make_project(folder: Path) -> None:
    """A folder that is like a fresh clone after its installation."""
    folder.mkdir()
    for name in ("MLproject", "conda.yaml", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        # and no file by which make knows what is installed
        if part.is_dir() or part.suffix == ".cfg":
            (folder / ".venv" / part.name).symlink_to(part)
    for name in ("python", "installed", "installed-dev"):
        (folder / ".venv" / name).touch()


def clone_project(folder: Path) -> None:
    """A fresh clone: nothing is installed, and what is not committed is not in it."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True, timeout=60)


def give(path: Path) -> None:
    if path.suffix == ".png":
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
        ).save(path)
    else:
        write_images(path, {"across": 40, "down": 40, "wide": 40})


def run(
    commands: list[Command], project: Path, home: Path, notes: Path, seconds: int = 3300
) -> None:
    """Types the commands into one shell, which stops at the first that does not end as its page
    says.
    """
    script = "".join(
        f"SECONDS=0; {{\n{typed(command)}\n}} >{notes}/{number}.said 2>&1 </dev/null\ncode=$?; "
        f"echo $code $SECONDS >{notes}/{number}.code; [ $code = {command.code} ] || exit 1\n"
        for number, command in enumerate(commands)
    )
    env = environment() | {"HOME": str(home), "COLUMNS": "200"}
    shell = subprocess.Popen(["bash", "-c", script], cwd=project, env=env, start_new_session=True)
    try:
        shell.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:  # servers that a page leaves behind, too
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(60)


def environment() -> dict[str, str]:
    """The reader's variables: this Python's programs first in PATH, or, from a fresh clone, nowhere
    in it.
    """
    own, path = str(Path(sys.executable).parent), os.environ["PATH"].split(os.pathsep)
    if FRESH:
        told = ("EYEVSAI_", "MLFLOW_", "PYTHON", "VIRTUAL_ENV", "OMP_", "MAKE", "MFLAGS")
        more = {"PATH": os.pathsep.join(folder for folder in path if folder != own)}
    else:
        told = ("EYEVSAI_", "MLFLOW_")
        more = {
            "PATH": os.pathsep.join([own, *path]),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
    return {name: value for name, value in os.environ.items() if not name.startswith(told)} | more


def typed(command: Command) -> str:
    if command.language == "python":
        return f"python - <<'PROGRAM'\n{command.text}\nPROGRAM"
    if command.language == FILE:
        return f"cat >{command.file_name} <<'FILE'\n{command.text}\nFILE"
    return command.text
