"""Whatever a parameter says, it is data: nothing of it runs, and no name leads out of a folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from itertools import product, takewhile
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.projects._project_spec import EntryPoint
from mlflow.projects.utils import load_project
from typer.main import get_command

from eyevsai.cli.main import build_app
from eyevsai.cli.parsing import OptionTable, normalize_arguments
from eyevsai.config import train_settings
from eyevsai.core.errors import UserError
from eyevsai.core.settings import Setting, Settings, list_settings
from tests.conftest import ROOT, TRAINED, Eyevsai, copy_trained, experiments, write_images
from tests.e2e.conftest import MlflowRun
from tests.invoke import invoke

MARKER = "injected"
TEXTS = {
    "semicolon": f"a; touch {MARKER};",
    "substitution": f"$(touch {MARKER})",
    "backticks": f"`touch {MARKER}`",
    "and": f"a && touch {MARKER} || touch {MARKER}",
    "pipe": f"| touch {MARKER} &",
    "redirection": f"> {MARKER}",
    "single quote": f"'; touch {MARKER}; '",
    "double quote": f'"; touch {MARKER}; "',
    "newline": f"a\ntouch {MARKER}\n",
    "traversal": f"../{MARKER}",
    "format": "{model}{0}%s%(a)s",
    "python": f"__import__('os').mkdir('{MARKER}')",
    "template": "{{ 7 * 7 }}${HOME}",
    "flag": "--debug",
    "comment": f"# \\; touch {MARKER} \\",
}
ALL = "".join(text for name, text in TEXTS.items() if name != "traversal")
FOLDER = ALL[:200]  # a file system takes no longer name
PROJECT = load_project(str(ROOT))
ENTRIES: dict[str, EntryPoint] = PROJECT._entry_points
SMALL = [
    "--epochs",
    "1",
    "--width",
    "4",
    "--batch-size",
    "16",
    "--image-size",
    "32",
    "--threads",
    "1",
]


def found_markers(folder: Path) -> list[str]:
    """Files that a command of the texts would have made, in a folder, below it and beside it."""
    return [
        str(path)
        for path in (*folder.rglob(MARKER), *folder.parent.glob(MARKER), *ROOT.glob(MARKER))
    ]


@pytest.fixture
def spy(tmp_path: Path) -> Path:
    """Return a `python` that writes down what it is called with: how many arguments, then each of
    them.
    """
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\0" $# "$@" >> "$ARGUMENTS"\n')
    program.chmod(0o755)
    return program


def read_calls(written: str) -> list[list[str]]:
    """Return the calls that the spy wrote down."""
    words, calls = iter(written.split("\0")[:-1]), []
    for count in words:
        calls.append([next(words) for _ in range(int(count))])
    return calls


@pytest.mark.requirement(24)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_parameter_of_the_project_is_one_argument(
    entry: str, spy: Path, tmp_path: Path
) -> None:
    """MLflow's own command line, run by bash as MLflow runs it; `run_name` stands for all that is
    not declared.
    """
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    env = {
        "PATH": f"{spy.parent}{os.pathsep}{os.environ['PATH']}",
        "ARGUMENTS": str(tmp_path / "arguments"),
    }
    declared = ENTRIES[entry].parameters
    commands, expected = list[str](), list[list[str]]()
    for name in (*declared, "run_name"):
        for text in (*TEXTS.values(), ALL):
            commands.append(ENTRIES[entry].compute_command({name: text}, None))
            values = {key: str(parameter.default) for key, parameter in declared.items()} | {
                name: text
            }
            flags = [f"--{key.replace('_', '-') if key in declared else key}" for key in values]
            words = [word for pair in zip(flags, values.values(), strict=True) for word in pair]
            expected.append(["-m", f"entrypoints.{entry}", *words])
    listed = "\0".join(commands)  # one process starts `bash -c COMMAND` for each
    subprocess.run(
        ["xargs", "-0", "-n1", "bash", "-c"],
        input=listed,
        cwd=sandbox,
        env=env,
        check=True,
        text=True,
    )
    assert read_calls((tmp_path / "arguments").read_text()) == expected
    assert not list(sandbox.iterdir())
    assert not found_markers(tmp_path)


def settings_classes(declared: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for each in declared.__subclasses__():
        yield each
        yield from settings_classes(each)


@pytest.mark.requirement(24)
def test_only_text_takes_texts() -> None:
    commands_of("train-all")  # which imports all that declares settings
    for setting in {
        setting for declared in settings_classes() for setting in list_settings(declared)
    }:
        if not takes_any_text(setting):
            for text in (*TEXTS.values(), ALL):
                with pytest.raises(UserError, match=f"^{setting.flag} "):
                    setting.parse(text)


def takes_any_text(setting: Setting) -> bool:
    return setting.type is str and setting.allowed is None


def commands_of(name: str) -> dict[str, Any]:
    """The parameters of a command by flag or by the name of the argument: those that take any
    text.
    """
    command: Any = get_command(build_app(name.split()))
    for word in name.split():
        command = command.commands[word]
    numbers = {"INT", "NUMBER", "BOOL"}
    return {
        parameter.opts[0]: parameter
        for parameter in command.params
        if not getattr(parameter, "is_flag", False) and parameter.metavar not in numbers
    }


def every_command() -> list[str]:
    app: Any = get_command(build_app([]))
    names = []
    for name, command in app.commands.items():
        names += (
            [f"{name} {inner}" for inner in command.commands]
            if hasattr(command, "commands")
            else [name]
        )
    return [name for name in names if name != "run-task"]  # takes a folder that eyevsai made


# What a command needs besides to come as far as it can; MODEL is a version that was trained, RUN
# its run.
GIVEN: dict[str, list[str]] = {
    "train": ["--data", "stripes", *SMALL],
    "tune": ["--data", "stripes", "--n-trials", "1", *SMALL],
    "train-all": ["--data-dir", "data", "--models", "deep_v1/standard", *SMALL],
    "evaluate": ["--run", "RUN"],
    "export": ["--run", "RUN", "--parity-images", "3"],
    "compare": ["RUN", "RUN"],
    "predict": ["MODEL", "one.png"],
    "promote": ["--name", "NAME", "--version", "1"],
    "rollback": ["NAME"],
    "registry log": ["NAME"],
    "registry best": ["--dataset", "stripes"],
    "registry reconcile": ["NAME"],
    "registry pin": ["NAME", "1"],
    "registry unpin": ["NAME", "1"],
    "registry import": ["none.json"],
    "data check": ["stripes"],
    "data stats": ["stripes"],
    "cleanup": ["--dry-run"],
    "ui": ["--no-browser", "--port", "TAKEN"],
}
# where a person says files go
PATHS = {"--data-dir", "--cache-dir", "--state-dir", "--output", "--page"}
FOLDER_OF = {"init": "folder"}  # arguments of this kind, by command
COMMANDS = {"data": "data download"}  # where the command is not called like its entry point
# many flags of train, or many jobs that are done
LONG = {"train-all", "tune", "describe", "evaluate", "export"}


@pytest.fixture
def sandbox(trained_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a copy of the store of `trained_store`, as the current folder."""
    sandbox = copy_trained(trained_store, tmp_path / "inner" / "sandbox", monkeypatch)
    write_images(sandbox / "stripes", {"across": 10, "down": 10, "wide": 10})
    shutil.copy(sandbox / "stripes" / "wide" / "000.png", sandbox / "one.png")
    return sandbox


@pytest.mark.requirement(24)
@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in every_command()],
)
def test_every_flag_of_every_command_is_data(command: str, sandbox: Path) -> None:
    (version,) = MlflowClient().search_model_versions(f"name = '{TRAINED['deep_v1']}'")
    taken = socket.create_server(("127.0.0.1", 0))  # or a page would be served for good
    words = {
        "RUN": version.run_id,
        "MODEL": "models:/stripes-deep_v1-standard/1",
        "NAME": "stripes-deep_v1-standard",
        "TAKEN": str(taken.getsockname()[1]),
    }
    given = [words.get(word, word) for word in GIVEN.get(command, [])]
    for name, text in product(commands_of(command), (ALL, f"../{MARKER}")):
        if text != ALL and (name in PATHS or FOLDER_OF.get(command) == name):
            continue
        for call in calls_with(text, name, given, commands_of(command)):
            done = invoke(sandbox, *command.split(), *call, code=None)
            said = done.stdout + done.stderr
            assert done.returncode in (0, 1, 2), said
            assert "bug in eyevsai" not in said, said
            assert "Traceback" not in said, said
            assert not found_markers(sandbox), (call, said)
    taken.close()


def calls_with(
    text: str, name: str, given: list[str], parameters: dict[str, Any]
) -> list[list[str]]:
    """The given call with `text` as a flag's value, or at each position of an argument, which may
    have several.
    """
    if name.startswith("--"):
        at = given.index(name) if name in given else len(given)
        return [[*given[:at], *given[at + 2 :], name, text]]
    words = list(takewhile(lambda word: not word.startswith("--"), given))
    first = [each for each in parameters if not each.startswith("--")].index(name)
    last = max(first, len(words) - 1) if parameters[name].nargs == -1 else first
    return [
        [*words[:at], text, *words[at + 1 :], *given[len(words) :]] for at in range(first, last + 1)
    ]


def test_every_position_of_an_argument_is_tried() -> None:
    for command, name, calls in (
        ("predict", "model", ["! one.png"]),
        ("predict", "images", ["MODEL !"]),
        ("compare", "models", ["! RUN", "RUN !"]),
        ("registry pin", "version", ["NAME !"]),
        ("promote", "registered", ["! --name NAME --version 1"]),
        ("install", "names", ["!"]),
        ("promote", "--name", ["--version 1 --name !"]),
    ):
        asked = calls_with("!", name, GIVEN.get(command, []), commands_of(command))
        assert [" ".join(call) for call in asked] == calls


def all_texts(entry: str) -> list[str]:
    """Return `-P NAME=ALL` for each parameter of an entry point, declared or not."""
    flags = [
        name
        for name in commands_of(COMMANDS.get(entry, entry.replace("_", "-")))
        if name.startswith("--")
    ]
    names = {
        *ENTRIES[entry].parameters,
        *(flag.removeprefix("--").replace("-", "_") for flag in flags),
    }
    return [word for name in sorted(names) for word in ("-P", f"{name}={ALL}")]


def check_refusal(said: str, folder: Path) -> None:
    """Fail unless a refusal is told in words and nothing of the texts ran."""
    assert "Error: " in said
    assert "bug in eyevsai" not in said
    assert "Traceback" not in said
    assert not found_markers(folder)


@pytest.mark.requirement(24)
@pytest.mark.parametrize("entry", ENTRIES)
def test_all_parameters_of_an_entry_point_at_once(
    entry: str, entry_point: Eyevsai, workplace: Path
) -> None:
    """The command line that MLflow computes, in this process: what comes out is refused, and
    nothing ran.
    """
    check_refusal(entry_point(entry, *all_texts(entry), code=1).stderr, workplace)


@pytest.mark.slow  # one process after another: a minute of a quiet machine
@pytest.mark.requirement(24)
@pytest.mark.parametrize("entry", ENTRIES)
def test_all_parameters_of_an_entry_point_at_once_by_mlflow_run(
    entry: str, mlflow_run: MlflowRun, workplace: Path
) -> None:
    """The same through MLflow and its own shell."""
    check_refusal(mlflow_run(entry, *all_texts(entry), code=1).stderr, workplace)


def check_free_texts(run: Eyevsai, folder: Path) -> None:
    """Train where no value is refused, with folders and a run that are called so, and look at the
    version's run.
    """
    data = write_images(folder / "data" / FOLDER, {"across": 12, "down": 12, "wide": 12})
    folders = {name: f"{FOLDER}-{name}" for name in ("state_dir", "cache_dir")}
    given = (
        {"data": data, "run_name": ALL}
        | folders
        | {
            flag.removeprefix("--").replace("-", "_"): value
            for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True)
        }
    )
    run("train", *(word for name, value in given.items() for word in ("-P", f"{name}={value}")))
    (logged,) = MlflowClient().search_runs(experiments())
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", ALL)
    # MLflow logs it as it quoted it for its shell
    assert shlex.split(logged.data.params["data"]) == [str(data)]
    assert all((folder / name).is_dir() for name in folders.values())
    assert not found_markers(folder)


@pytest.mark.requirement(24)
def test_what_may_say_anything_says_it_in_the_run(entry_point: Eyevsai, workplace: Path) -> None:
    check_free_texts(entry_point, workplace)


@pytest.mark.slow
@pytest.mark.requirement(24)
def test_what_may_say_anything_says_it_in_the_run_by_mlflow_run(
    mlflow_run: MlflowRun, workplace: Path
) -> None:
    check_free_texts(mlflow_run, workplace)


def test_what_looks_like_a_flag_is_the_value_of_the_flag_before_it() -> None:
    settings = train_settings("deep_v1", None)
    flags = OptionTable(
        with_value={setting.flag for setting in settings if setting.type is not bool},
        boolean={setting.flag for setting in settings if setting.type is bool},
    )
    for text, spelled in {
        "--run-name --flip": "--run-name --flip",
        "--flip --run-name --resume-force": "--flip true --run-name --resume-force",
        "--no-flip": "--flip false",
        "--flip maybe": "--flip maybe",
        "--flip": "--flip true",
        "--run-name --data --flip": "--run-name --data --flip true",
        "--debug true --quiet false": " | debug",
        "--run-name --debug true": "--run-name --debug true",
        "--run_name -- --flip": "--run_name -- --flip true",
        "--flip -- --flip --debug true": "--flip true -- --flip --debug true",
    }.items():
        words, _, switches = spelled.partition(" | ")
        assert normalize_arguments(text.split(), flags) == (words.split(), switches.split()), text


@pytest.mark.parametrize("switch", ["--debug", "--quiet", "--verbose"])
def test_a_switch_that_is_a_value_or_stands_behind_two_hyphens_is_data(
    eyevsai: Eyevsai, switch: str
) -> None:
    for call, said in {
        ("train", "--run-name", switch, "--epochs", "0"): "--epochs 0 is not allowed",
        (
            "train",
            "--run-name",
            "--model",
            switch,
            "false",
            "--epochs",
            "0",
        ): "--epochs 0 is not allowed",
        ("registry", "log", "none", "--at", switch): f"--at '{switch}' is not a date or time",
        ("registry", "log", "--", switch): f"There is no registered model '{switch}'",
        ("promote", "--version", "1", "--name", switch): f"There is no registered model '{switch}'",
        ("data", "check", "--", switch): f"There is no folder {switch}",
    }.items():
        assert said in eyevsai(*call, code=2).stderr
    assert "EYEVSAI_VERBOSITY" not in os.environ


def test_a_version_remembers_a_reason_that_looks_like_a_switch(sandbox: Path) -> None:
    invoke(sandbox, "registry", "pin", TRAINED["deep_v1"], "1", "--reason", "--quiet")
    assert (
        json.loads(invoke(sandbox, "registry", "log", TRAINED["deep_v1"], "--json").stdout)[-1][
            "reason"
        ]
        == "--quiet"
    )
