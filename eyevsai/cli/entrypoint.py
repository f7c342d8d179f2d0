"""Entry points of MLproject: each runs one command in the folder where `mlflow run` was called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from eyevsai.cli.main import main
from eyevsai.cli.options import drop_empty
from eyevsai.cli.project import COMMANDS
from eyevsai.core.errors import UserError
from eyevsai.core.shell import unquote_arguments
from eyevsai.core.terminal import wrap_message
from eyevsai.workflows.monitor.settings import MONITOR, monitor_command

RUN_ID = "MLFLOW_RUN_ID"


def run_entry_point(name: str) -> None:
    """Run the command of an entry point with the arguments of this process.

    If it fails before it has used the run that `mlflow run` created, that run gets the name of the
    entry point and the error.

    Raises:
        SystemExit: always, with the exit code of the command.
    """
    run_id = os.environ.get(RUN_ID)
    enter_caller_dir(f"entrypoints.{name}")
    arguments = sys.argv[1:] if run_id is None else unquote_arguments(sys.argv[1:])
    try:
        main(_find_command(name, drop_empty(name, arguments)))
    except SystemExit as end:
        if end.code and run_id is not None:
            _label_failed_call(run_id, name, end.__context__)
        raise


def _find_command(name: str, words: list[str]) -> list[str]:
    """Return the command line of an entry point.

    Raises:
        SystemExit: the parameters do not determine the command of `monitor`.
    """
    if name != MONITOR:
        return [*COMMANDS.get(name, (name,)), *words]
    try:
        return monitor_command(words)
    except UserError as error:
        print(wrap_message(f"Error: {error}", sys.stderr), file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def enter_caller_dir(module: str) -> None:
    """Change to the folder where `mlflow run` was called, so that relative paths refer to it.

    MLflow starts entry points in the folder of the project, which is a temporary copy for a project
    from Git. Child processes import the project from there. Does nothing if this process was not
    started as `python -m MODULE` by MLflow, or if that folder cannot be found.
    """
    project, caller = Path.cwd(), _find_caller_dir(module)
    if caller is None or caller == project:
        return
    try:
        os.chdir(caller)
    except OSError:  # it was deleted
        return
    paths = [str(project), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def _find_caller_dir(module: str) -> Path | None:
    """Return the working directory of the process that called MLflow; None if it is unknown.

    It is that of the nearest ancestor that is not a shell which runs `module`: MLflow may start
    one, which resets PWD.
    """
    if RUN_ID not in os.environ or module not in sys.orig_argv:
        return None
    import psutil

    try:
        for process in psutil.Process().parents():
            if not any(module in word for word in process.cmdline()):
                return Path(process.cwd())
    except (psutil.Error, OSError):
        pass
    return None


def _label_failed_call(run_id: str, name: str, error: BaseException | None) -> None:
    from eyevsai.workflows.failed_call import label_failed_call

    label_failed_call(run_id, name, error)
