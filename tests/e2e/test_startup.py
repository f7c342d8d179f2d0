"""User mistakes are reported, and commands are started, without libraries that they do not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.store.uris import MLRUNS, VARIABLE
from eyevsai.workflows.startup import check_inputs, check_store
from tests.conftest import Eyevsai
from tests.invoke import ROOT

BLOCKED = ("torch", "mlflow", "sklearn", "torchvision", "optuna", "sqlalchemy", "numpy")
# runs command lines in one process; prints exit code, message and loaded libraries of each
RUNNER = f"""
import contextlib, io, json, sys
from eyevsai.cli.main import main
results = []
for line in json.loads(sys.argv[1]):
    errors, code = io.StringIO(), 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
        try:
            main(line)
        except SystemExit as end:
            code = end.code
    results.append((code, errors.getvalue(), sorted(set({BLOCKED}) & set(sys.modules))))
print(json.dumps(results))
"""
# command line: part of the message
MISTAKES = {
    "train --data nothing": "There is no folder nothing",
    "train --data file": "file is a file",
    "train --dataset nothing": "There is no dataset 'nothing'",
    "train --data images --labels nothing.csv": "--labels nothing.csv does not exist",
    "train --epochs 0": "--epochs 0",
    "train --device gpu": "--device",
    "train --lr many": "--lr",
    "train --model nothing": "There is no model 'nothing'",
    "train --state-dir file": "Choose another --state-dir",
    "train --state-dir file/state": "Choose another --state-dir",
    "tune --data nothing": "There is no folder nothing",
    "tune --space nothing.toml": "--space nothing.toml cannot be read",
    "tune --space file": "it is not valid TOML",
    "tune --state-dir file": "Choose another --state-dir",
    "tune --n-trials 0": "--n-trials",
    "train-all --models nothing": "There is no model 'nothing'",
    "train-all --datasets nothing": "There is no dataset 'nothing'",
    "train-all --export nothing": "nothing",
    "train-all --state-dir file": "Choose another --state-dir",
    "evaluate a/1 --data nothing": "There is no folder nothing",
    "evaluate a/1 --data images --class-map nothing.toml": "--class-map nothing.toml",
    "evaluate models:/a/b": "models:/a/b",
    "evaluate": "A model is required",
    "compare a/1 b/1 --page nothing/page.html": "Choose another --page",
    "compare a/1 b/1 --page images": "Choose another --page",
    "export a/1 --output file": "Choose another --output",
    "export a/1 --output file/exports": "Choose another --output",
    "export a/1 --format nothing": "nothing",
    "export --package images": "exists already",
    "predict a/1 nothing.png": "nothing.png",
    "predict ./nothing file": "There is no model ./nothing",
    "predict models:/a/b/c file": "models:/a/b/c",
    "predict a/1 file --top-k 0": "--top-k",
    "report --output file": "Choose another --output",
    "train --data images": "There are no images in images",
    "tune --data images": "There are no images in images",
    "evaluate a/1 --data images": "There are no images in images",
    "train --model transfer --weights nothing.pt": "--weights nothing.pt is not a file",
    "evaluate ./a": "./a is a path, but a run or a registered version is required",
    "export ./a": "./a is a path, but a run or a registered version is required",
    "compare models:a models:b": "models:a is not the URI of a model",
    "describe models:a": "models:a is not the URI of a model",
    "describe ./nothing": "There is no model ./nothing",
    "rollback models:a": "models:a is not the URI of a model",
    "registry status models:a": "models:a is not the URI of a model",
    "registry log models:a": "models:a is not the URI of a model",
    "registry pin models:a": "models:a is not the URI of a model",
    "registry unpin models:a": "models:a is not the URI of a model",
    "registry reconcile models:a": "models:a is not the URI of a model",
    "promote a/1 --policy nothing.toml": "nothing.toml cannot be read",
    "promote a/1 --to nothing": "--to",
    "promote a/1 --state-dir file": "Choose another --state-dir",
    "rollback a --state-dir file": "Choose another --state-dir",
    "cleanup --all --state-dir file": "Choose another --state-dir",
    "registry log a --at nothing": "--at 'nothing' is not a date or time",
    "registry best --dataset a --promote --policy nothing.toml": "nothing.toml cannot be read",
    "registry import nothing.json": "There is no file nothing.json",
    "registry import file": "file is not JSON",
    "registry pin a 1 --state-dir file": "Choose another --state-dir",
    "ui --storage sqlite:///a.db": "requires --optuna",
    "data check nothing": "There is no folder nothing",
    "data check images --page nothing/page.html": "Choose another --page",
    "data stats nothing": "There is no folder nothing",
}
# commands that open the store
STORE_COMMANDS = (
    "train",
    "tune",
    "train-all --datasets digits",
    "evaluate a/1",
    "compare a/1 b/1",
    "export a/1",
    "predict a/1 file",
    "report",
    "promote a/1",
    "rollback a",
    "cleanup --all",
    "registry status",
    "registry log a",
    "registry best --dataset a",
    "registry reconcile a",
    "registry pin a 1",
    "sync",
    "ui",
)


def run_lines(folder: Path, *lines: str, **env: str) -> dict[str, tuple[int, str, list[str]]]:
    """Run command lines in one new process; return exit code, output and loaded libraries."""
    (folder / "file").write_text("not TOML")
    (folder / "images").mkdir()
    output = run_python(folder, RUNNER, json.dumps([line.split() for line in lines]), **env)
    return dict(zip(lines, json.loads(output), strict=True))


def run_python(folder: Path, code: str, *arguments: str, **env: str) -> str:
    """Run a program in a new process, which must succeed; return its output."""
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_mistakes_are_reported_before_large_libraries_are_imported(workplace: Path) -> None:
    results = run_lines(workplace, *MISTAKES)
    for line, (code, message, modules) in results.items():
        assert code == 2, (line, message)
        assert message.startswith("Error: "), (line, message)
        assert MISTAKES[line] in message, (line, message)
        assert not modules, (line, modules)
    assert sorted(path.name for path in workplace.iterdir()) == ["file", "images", "mlflow.db"]


@pytest.mark.parametrize("uri", ["nothing", "sqlit:///a.db", "file:///tmp/runs"])
def test_malformed_store_is_reported_before_mlflow_is_imported(workplace: Path, uri: str) -> None:
    results = run_lines(workplace, *STORE_COMMANDS, MLFLOW_TRACKING_URI=uri)
    for line, (code, message, modules) in results.items():
        assert code == 2, (line, message)
        assert message.startswith("Error: The "), (line, message)
        assert not modules, (line, modules)


def test_folder_of_plain_files_is_reported_before_mlflow_is_imported(tmp_path: Path) -> None:
    (tmp_path / MLRUNS / "0").mkdir(parents=True)
    (tmp_path / MLRUNS / "0" / "meta.yaml").touch()
    ((code, message, modules),) = run_lines(
        tmp_path, "registry status", MLFLOW_TRACKING_URI=""
    ).values()
    assert (code, modules) == (2, [])
    assert "plain-file store" in message


def test_program_that_loaded_mlflow_can_set_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nothing")
    check_store()  # this process has loaded MLflow
    monkeypatch.delitem(sys.modules, "mlflow")
    with pytest.raises(UserError, match="nothing"):
        check_store()


@pytest.mark.parametrize(
    ("workflows", "libraries"),
    [
        (("registry.status", "registry.cleanup", "registry.ranking", "report.report"), {"mlflow"}),
        (("predict",), {"torch"}),
        (("train.train", "tune.tune"), {"torch", "mlflow"}),
    ],
)
def test_workflows_import_only_what_they_need(
    workflows: tuple[str, ...], libraries: set[str]
) -> None:
    code = "import sys\n"
    code += "\n".join(f"import eyevsai.workflows.{name}" for name in workflows)
    code += (
        "\nlibraries = {'torch', 'torch._dynamo', 'torchvision', 'mlflow', 'sklearn', 'optuna', "
        "'matplotlib'}\n"
        f"assert libraries & set(sys.modules) == {libraries}, libraries & set(sys.modules)\n"
    )
    run_python(ROOT, code)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "mps"), "--device mps is not available"),
        (("--device", "cpu", "--precision", "float16"), "--precision float16 is not supported"),
    ],
)
def test_device_is_checked_before_the_data_is_read(
    eyevsai: Eyevsai, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    def fail(settings: object) -> None:
        raise AssertionError(settings)

    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("eyevsai.workflows.train.train.load_dataset", fail)
    monkeypatch.setattr("eyevsai.workflows.tune.study_config.load_dataset", fail)
    for command in ("train", "tune"):
        assert message in eyevsai(command, *options, code=2).stderr


def test_python_functions_check_their_inputs_first(workplace: Path) -> None:
    (workplace / "file").touch()
    code = (
        "import sys, eyevsai\n"
        "calls = [(eyevsai.train, {'data': 'nothing'}), (eyevsai.tune, {'space': 'nothing'}),\n"
        "    (eyevsai.evaluate, {'model': 'a/1', 'data': 'nothing'}),\n"
        "    (eyevsai.export, {'model': 'a/1', 'output': 'file'})]\n"
        "for function, keywords in calls:\n"
        "    try:\n        function(**keywords)\n        sys.exit('no error')\n"
        "    except eyevsai.UserError:\n"
        "        heavy = {'torch', 'mlflow'} & set(sys.modules)\n"
        "        assert not heavy, (function, heavy)\n"
    )
    run_python(workplace, code)


def test_usable_inputs_pass(tmp_path: Path) -> None:
    (tmp_path / "page.html").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    check_inputs(
        {
            "output": f"{tmp_path}/new/folder",
            "state_dir": tmp_path / "link",
            "page": tmp_path / "page.html",
            "dataset": "digits",
            "loaded_model": "a/1",
            "package": "game",
            "data": None,
        }
    )
