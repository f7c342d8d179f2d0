"""Code that only Linux runs here is written for macOS and Windows too: docs/platforms.md.

`make check` runs mypy for all three platforms, which finds names that a module lacks on one of
them. This module finds what types do not show, and calls what does not need the other system.
"""

from __future__ import annotations

import ast
import io
import json
import ntpath
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlunsplit

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.string_utils import mslex_quote

from eyevsai.cli import entrypoint
from eyevsai.cli.main import main
from eyevsai.core import atomic_dir, model_ref, shell
from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import parse_model
from eyevsai.core.names import FILE_NAME_LENGTH, is_valid_on_windows, to_file_name
from eyevsai.core.shell import quote, unquote_arguments
from eyevsai.data import archives
from eyevsai.store.uris import check_uri, local_path, mask_password, spellings, sqlite_file
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.tuning.settings import journal_path
from tests.conftest import ROOT, write_images

FILES = [
    path
    for name in ("eyevsai", "entrypoints")
    for path in sorted((ROOT / name).rglob("*.py"))
    if path.parent.name != "examples"  # programs of users
]
# the second one imports nothing of eyevsai
PROCESS_MODULES = ("eyevsai/core/process_tree.py", "eyevsai/core/installer.py")
# names that one of the three systems lacks
MODULES = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
MODULES |= {"winreg", "_winapi"}
OS_NAMES = """
chown fork forkpty getegid geteuid getgid getloadavg getpgid getpgrp getsid getuid killpg lchown
mkfifo mknod nice O_NOFOLLOW pipe2 posix_spawn sched_getaffinity sched_setaffinity setpgid setsid
startfile statvfs sync uname wait wait3 wait4 WNOHANG
"""
SIGNAL_NAMES = """
alarm CTRL_BREAK_EVENT CTRL_C_EVENT pause pthread_kill setitimer SIGALRM SIGBREAK SIGCHLD SIGHUP
SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 sigwait
"""
NAMES = {
    "os": OS_NAMES.split(),
    "signal": SIGNAL_NAMES.split(),
    "subprocess": ["CREATE_NEW_PROCESS_GROUP", "CREATE_NO_WINDOW", "STARTUPINFO"],
    "time": ["tzset"],
}
SHELL_ADVICE = re.compile(
    r"\bexport (?:[A-Z_]{3,}|\{\})=|\brm -|\bsource \S*activate|\bchmod [0-7u+]|\$\(|/dev/null"
)


# yields what a file has that it must not have, by its tree and its path in the project
Guard = Callable[[ast.Module, str], Iterator[str]]


def walk_with_scope(
    tree: ast.AST, scope: ast.AST | None = None
) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield each node with the innermost function that contains it, or the module."""
    scope = tree if scope is None else scope
    for node in ast.iter_child_nodes(tree):
        yield node, scope
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from walk_with_scope(node, node if is_function else scope)


def has_check(scope: ast.AST) -> bool:
    """Return True if a function or module tests the platform, or whether a name exists."""
    tests = (node.test for node in ast.walk(scope) if isinstance(node, ast.If | ast.IfExp))
    return any(re.search(r"\bsys\.platform\b|\bhasattr\(", ast.unparse(test)) for test in tests)


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call, dict[str, ast.expr]]]:
    """Yield the calls of a file: what is called as text, the call, and its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = {word.arg: word.value for word in node.keywords if word.arg is not None}
            yield ast.unparse(node.func), node, words


def name_of_one_system(node: ast.AST) -> str | None:
    """Return the name that a node uses or imports, if one of the three systems lacks it."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        is_found = node.attr in NAMES.get(node.value.id, ())
        return f"{node.value.id}.{node.attr}" if is_found else None
    if isinstance(node, ast.Import):
        return next((each.name for each in node.names if each.name in MODULES), None)
    if isinstance(node, ast.ImportFrom):
        module = str(node.module)
        imported = [each.name for each in node.names if each.name in NAMES.get(module, ())]
        return module if module in MODULES else next(iter(imported), None)
    return None


def unchecked_names(tree: ast.Module, path: str) -> Iterator[str]:
    for node, scope in walk_with_scope(tree):
        name = name_of_one_system(node)
        if name and not has_check(scope):
            yield name


def process_groups(tree: ast.Module, path: str) -> Iterator[str]:
    if path in PROCESS_MODULES:
        return
    options = {"start_new_session", "process_group", "creationflags", "preexec_fn"}
    for called, _, words in calls(tree):
        if called in ("os.kill", "os.killpg", "os.fork") or options & words.keys():
            yield called


def locale_encodings(tree: ast.Module, path: str) -> Iterator[str]:
    for called, call, words in calls(tree):
        name, number = called.rpartition(".")[2], len(call.args)
        is_text = bool(words.keys() & {"text", "universal_newlines"})
        if called == "open":
            mode = words.get("mode", call.args[1] if number > 1 else ast.Constant("r"))
            is_text = not re.search(r"'[\w+]*b[\w+]*'", ast.unparse(mode))
        elif name in ("read_text", "write_text"):
            is_text = number <= (name == "write_text")
        if is_text and "encoding" not in words:
            yield f"{called} in line {call.lineno}"


def start_methods(tree: ast.Module, path: str) -> Iterator[str]:
    assumed = {"set_start_method", "get_context", "ProcessPoolExecutor", "Pool"}
    for called, _, words in calls(tree):
        name = called.rpartition(".")[2]
        is_loader = name == "DataLoader" and path != "eyevsai/data/parallel.py"
        if name in assumed or "multiprocessing_context" in words or is_loader:
            yield called


def native_separators(tree: ast.Module, path: str) -> Iterator[str]:
    for node in ast.walk(tree):
        inner = node.value if isinstance(node, ast.FormattedValue) else None
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "os.fspath"):
            inner = next(iter(node.args), None)
        if isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith(".relative_to"):
            yield ast.unparse(node)


def shell_advice(tree: ast.Module, path: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [getattr(each, "value", "") for each in node.values]
            text = "".join(each if isinstance(each, str) else "{}" for each in parts)
        else:
            text = str(node.value) if isinstance(node, ast.Constant) else ""
        if SHELL_ADVICE.search(text):
            yield text


GUARDS: dict[Guard, list[str]] = {  # with examples of what each of them finds
    unchecked_names: [
        "import os\nos.killpg(1, 9)",
        "import signal\ndef f():\n  return signal.SIGKILL",
        "from signal import SIGHUP",
        "import fcntl",
        "from resource import getrusage",
    ],
    process_groups: [
        "import os\nos.kill(1, 9)",
        "import os\nif hasattr(os, 'killpg'):\n  os.killpg(1, 9)",
        "Popen([], start_new_session=True)",
    ],
    locale_encodings: [
        "open('a')",
        "open('a', 'w')",
        "open('a', mode='a')",
        "path.read_text()",
        "path.write_text('a')",
        "run([], text=True)",
    ],
    start_methods: ["multiprocessing.set_start_method('fork')", "DataLoader(data)"],
    native_separators: ["str(path.relative_to(root))", "f'{path.relative_to(root)}'"],
    shell_advice: ["x = f'then: export {name}=1'", "x = 'call source .venv/bin/activate'"],
}


@pytest.mark.parametrize("guard", GUARDS)
def test_no_file_assumes_one_system(guard: Guard) -> None:
    findings = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        findings += [f"{name}: {each}" for each in guard(tree, name)]
    assert not findings
    for example in GUARDS[guard]:
        assert list(guard(ast.parse(example), "example.py")), example


def test_programs_start_nothing_when_a_worker_imports_them() -> None:
    programs = [*(ROOT / "entrypoints").glob("*.py"), ROOT / "eyevsai" / "__main__.py"]
    for path in programs:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_guard = isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node)
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert is_guard or is_docstring or isinstance(node, ast.Import | ast.ImportFrom)


# characters that MLflow allows in the name of a registered model
REGISTERED_NAMES = st.text(
    st.characters(exclude_characters="/:", exclude_categories=["Cs"]), min_size=1
)
DEVICES = st.sampled_from(
    ["CON", "nul", "Aux", "com1", "LPT9", "con .x", "NUL.tar.gz", "COM¹", "conin$"]
)


def is_reserved(name: str) -> bool:
    """Return Python's own answer whether Windows reserves a name."""
    if hasattr(ntpath, "isreserved"):  # from Python 3.13
        return bool(ntpath.isreserved(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PureWindowsPath(name).is_reserved() or name.endswith((".", " "))


@given(REGISTERED_NAMES | DEVICES | st.tuples(DEVICES, REGISTERED_NAMES).map("".join))
def test_file_of_a_model_can_be_written_on_each_system(name: str) -> None:
    file = to_file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|-[A-Za-z0-9_.-]*", file)
    assert not is_reserved(file)
    assert is_valid_on_windows(file)
    assert len(file) <= FILE_NAME_LENGTH + 10
    assert not is_reserved(f"{file}-12")  # the folder of an exported version


@given(REGISTERED_NAMES, REGISTERED_NAMES)
def test_files_of_two_models_differ(name: str, other: str) -> None:
    assert (to_file_name(name) == to_file_name(other)) == (name == other)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | DEVICES)
def test_names_that_python_calls_reserved_are_refused(name: str) -> None:
    if is_reserved(name):
        assert not is_valid_on_windows(name)


@pytest.mark.parametrize(
    "name", ["birds-deep_v1-standard", "Birds", "a.b", "com10", "console", "nul-1"]
)
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert to_file_name(name) == name
    assert journal_path(Path("studies"), name) == Path("studies", f"{name}.journal")


@given(
    st.from_regex(r"[A-Za-z0-9_.-]+", fullmatch=True) | st.sampled_from(["nul", "CON.x", "aux."])
)
def test_journal_of_a_study_can_be_written_on_each_system(study: str) -> None:
    assert not is_reserved(journal_path(Path("studies"), study).name)


FOLDER_NAMES = st.text(
    st.characters(exclude_characters='<>:"/\\|?*', exclude_categories=["Cs", "Cc"]), min_size=1
).filter(lambda name: not is_reserved(name) and name.strip(". "))


@given(st.sampled_from("CcDz"), st.lists(FOLDER_NAMES, min_size=1, max_size=3))
def test_paths_of_windows_survive_the_forms_that_mlflow_stores(
    drive: str, names: list[str]
) -> None:
    folder = PureWindowsPath(f"{drive}:/", *names)
    forms = spellings(folder)
    assert folder.as_uri() in forms
    assert urlunsplit(("file", "", folder.as_posix(), "", "")) in forms  # MLflow's default
    assert {str(folder), folder.as_posix()} <= set(forms)
    for form in forms[:6]:
        path = local_path(form, windows=True)
        if form.startswith("file:") or not set("#?") & set(form):
            assert path is not None
            assert PureWindowsPath(path) == folder


@pytest.mark.parametrize(
    ("location", "on_windows", "elsewhere"),
    [
        ("file:///C:/a%20b/mlruns", "C:/a b/mlruns", "/C:/a b/mlruns"),
        ("file://localhost/C:/mlruns", "C:/mlruns", "/C:/mlruns"),
        ("c:/mlruns", "c:/mlruns", None),
        ("C:\\mlruns\\1", "C:\\mlruns\\1", None),
        ("file:///srv/mlruns", "/srv/mlruns", "/srv/mlruns"),
        ("/srv/mlruns", "/srv/mlruns", "/srv/mlruns"),
        ("s3://bucket/mlruns", None, None),
        ("file://server/share", None, None),
        ("c://bucket/x", "c://bucket/x", None),
    ],
)
def test_location_of_artifacts_is_a_path(
    location: str, on_windows: str | None, elsewhere: str | None
) -> None:
    assert local_path(location, windows=True) == on_windows
    assert local_path(location, windows=False) == elsewhere


def test_folder_on_linux_has_two_spellings() -> None:
    assert spellings(PurePosixPath("/a b/c")) == ["/a b/c", "file:///a%20b/c"]


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///C:/data/mlflow.db", "C:/data/mlflow.db"),
        ("sqlite:///C:\\data\\mlflow.db", "C:\\data\\mlflow.db"),
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////data/mlflow.db", "/data/mlflow.db"),
        ("postgresql://host/C:/x", None),
    ],
)
def test_file_of_a_sqlite_store(uri: str, file: str | None) -> None:
    assert sqlite_file(uri) == file
    check_uri(uri)
    assert mask_password(uri) == uri


def test_drive_of_windows_is_no_scheme() -> None:
    with pytest.raises(UserError, match="is a plain-file store"):
        check_uri("C:\\work\\mlruns")
    with pytest.raises(UserError, match="if that is a database"):
        check_uri("C:\\work\\mlflow.db")


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("birds-deep_v1/3", "birds-deep_v1/3"),
        ("C:\\data\\birds", "C:\\data\\birds"),
        ("birds@champion", "birds@champion"),
        ("@birds", '"@birds"'),
        ("onnx,openvino", '"onnx,openvino"'),  # PowerShell would pass two words
        ("C:\\my data\\", '"C:\\my data\\\\"'),
        ("openvino>=2025.3", '"openvino>=2025.3"'),
        ('the "best" one', '"the \\"best\\" one"'),
        ("it's", '"it\'s"'),
        ("", '""'),
    ],
)
def test_words_are_quoted_for_the_shells_of_windows(
    word: str, quoted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "IS_WINDOWS", True)
    assert quote(word) == quoted


@given(st.text(st.sampled_from('ab \\"'), min_size=1).map(lambda text: f"{text} x"))
def test_quoted_word_is_the_argument_that_windows_reads(word: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shell, "IS_WINDOWS", True)
        assert quote(word) == subprocess.list2cmdline([word])


@given(st.lists(st.text(st.sampled_from('ab \\"'))))
def test_command_line_is_split_as_windows_does(words: list[str]) -> None:
    assert shell._split(subprocess.list2cmdline(words)) == words


@pytest.mark.parametrize(
    ("is_windows", "run_id", "arrived", "expected"),
    [
        (True, "1" * 32, ["--data", '"C:\\my', 'birds"', "--config", '""'], ["C:\\my birds"]),
        (False, "1" * 32, ["--data", '"birds"'], ['"birds"']),
        (True, None, ["--data", '"birds"'], ['"birds"']),  # called without `mlflow run`
        (True, "1" * 32, ["--data", 'the "best" birds'], ['the "best" birds']),  # no split values
    ],
)
def test_entry_point_gets_the_values_of_mlflow(
    is_windows: bool,
    run_id: str | None,
    arrived: list[str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(entrypoint, "main", commands.append)
    monkeypatch.setattr(shell, "IS_WINDOWS", is_windows)
    monkeypatch.setattr(sys, "argv", ["train.py", *arrived])
    if run_id is not None:
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    entrypoint.run_entry_point("train")
    assert commands == [["train", "--data", *expected]]


# without what MLflow cannot pass on Windows: quotes, %, ! and ^, and several spaces in a row
VALUES = st.text(st.characters(exclude_characters='"%!^', exclude_categories=["Cc", "Cs", "Z"]))
PHRASES = st.lists(VALUES, max_size=3).map(" ".join).map(str.strip)


@given(st.lists(st.sampled_from(["", "the first one", "C:\\my data\\", "a & b"]) | PHRASES))
def test_values_arrive_through_mlflow_and_the_shell_of_windows(values: list[str]) -> None:
    values = [" ".join(value.split(" ")) for value in values if "  " not in value]
    command = " ".join(["python", *map(mslex_quote, values)])
    line = subprocess.list2cmdline(["cmd", "/c", command])
    # cmd.exe removes the outer quotes, and does not know that \\" is no end of a quoted word
    assert line.startswith('cmd /c "') or '"' not in line
    inner = line.removeprefix("cmd /c ").removeprefix('"').removesuffix('"')
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shell, "IS_WINDOWS", True)
        arrived = shell._split(inner)[1:]
        assert unquote_arguments(arrived) == values


@pytest.mark.parametrize("text", [".\\exports\\onnx", "exports\\onnx", "~\\model", "C:\\models\\a"])
def test_backslash_makes_a_path_where_it_separates_folders(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_ref, "_IS_BACKSLASH_SEPARATOR", True)
    assert parse_model(text).is_path
    assert not parse_model("models:/a/1").is_path


@pytest.mark.parametrize(
    "name", ["a/CON.jpg", "a/b.jpg:c.jpg", "a. /b.jpg", "a/.. /b.jpg", "a/b?.jpg"]
)
def test_archive_with_a_name_that_windows_misreads_is_refused_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as container:
        container.writestr(name, b"image")
    archives.extract(archive, tmp_path / "here", {".jpg"})
    monkeypatch.setattr(archives, "IS_WINDOWS", True)
    with pytest.raises(UserError, match="is not a valid file name"):
        archives.extract(archive, tmp_path / "there", {".jpg"})
    assert not (tmp_path / "there").exists()


class OpenFiles:
    """Files that other processes have open, as Windows treats them: refuses a number of calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, refusals: int) -> None:
        self.refusals, self.original = refusals, getattr(Path, method)
        monkeypatch.setattr(
            Path, method, lambda path, *args, **words: self.call(path, *args, **words)
        )

    def call(self, path: Path, *args: object, **words: object) -> object:
        if self.refusals:
            self.refusals -= 1
            raise PermissionError(13, "The process cannot access the file", str(path))
        return self.original(path, *args, **words)


def test_file_that_is_open_for_a_moment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, "old\nlines")
    monkeypatch.setattr(atomic_dir, "REPLACE_PAUSES_S", (0.0, 0.0))
    OpenFiles(monkeypatch, "replace", refusals=2)
    write_atomically(path, "new\nlines")
    assert path.read_bytes() == b"new\nlines"
    OpenFiles(monkeypatch, "replace", refusals=3)
    with pytest.raises(PermissionError):
        write_atomically(path, "newest")
    assert path.read_bytes() == b"new\nlines"


def test_checkpoint_that_is_mapped_into_memory_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(2):
        checkpoints.save({"weight": torch.full((2,), float(number))}, {"step": number})
    files = OpenFiles(monkeypatch, "unlink", refusals=1)
    checkpoints.save({"weight": torch.full((2,), 2.0)}, {"step": 2})
    assert files.refusals == 0
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    checkpoints.save({"weight": torch.full((2,), 3.0)}, {"step": 3})
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.state == {"step": 3}


def test_characters_that_standard_output_lacks_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_images(tmp_path / "data", {"猫": 12, "été": 12})
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")  # of a pipe on Windows
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit) as caught:
        main(["data", "stats", "--data", str(data)])
    assert not caught.value.code
    output.flush()
    text = output.buffer.getvalue().decode("cp1252")  # type: ignore[attr-defined]
    assert "\\u732b" in text
    assert "été" in text


SPAWNING = """
import json, multiprocessing, os, sys
from eyevsai.cli import entrypoint
from eyevsai.cli.main import main

def fork():
    raise AssertionError("fork is not on Windows")

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    os.fork = fork
    for words in json.loads(sys.argv[1]):
        try:
            main(words)
        except SystemExit as end:
            if end.code:
                raise
"""


@pytest.mark.processes("workers that are spawned, as on macOS and Windows, import the program anew")
def test_workers_are_spawned(workplace: Path) -> None:
    # more than one chunk of images in each step: these are computed in worker processes
    write_images(workplace / "data" / "many", {"across": 50, "down": 50})
    (workplace / "program.py").write_text(SPAWNING, encoding="utf-8")
    commands = [
        ["train", "--model", "shallow/rf_hog_lbp", "--dataset", "many", "--cache-dir", "cache"],
        ["predict", "many-shallow-rf_hog_lbp/1", "data/many"],
    ]
    result = subprocess.run(
        [sys.executable, "program.py", json.dumps(commands)],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr
    assert (
        len([line for line in result.stdout.splitlines() if line.startswith("data/many/")]) == 100
    )
