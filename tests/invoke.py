"""Commands in the test's own process: `eyevsai ...` and the entry points of MLproject.

A process of its own costs 11 s of imports; tests that need one use the fixture `eyevsai_process`.
"""

from __future__ import annotations

import io
import logging
import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def restored_process(folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Change the folder and the environment; restore them, the logger and torch's threads at the
    end.
    """
    import torch

    logger = logging.getLogger("eyevsai")
    handlers, level, propagates = list(logger.handlers), logger.level, logger.propagate
    folder_before, environment, threads = Path.cwd(), dict(os.environ), torch.get_num_threads()
    os.chdir(folder)
    os.environ.update(env)
    try:
        yield
    finally:
        os.chdir(folder_before)
        os.environ.clear()
        os.environ.update(environment)
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(level)  # the attribute alone would leave what logging has cached
        torch.set_num_threads(threads)


def invoke(
    folder: Path, *arguments: str, code: int | None = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `eyevsai ARGUMENTS` in `folder`, in this process; check the exit code unless `code` is
    None.
    """
    from eyevsai.cli.main import main

    out, err, returned = io.StringIO(), io.StringIO(), 0
    with restored_process(folder, env), redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            returned = int(end.code or 0)
    assert code is None or returned == code, (
        f"exit code {returned}\n{out.getvalue()}{err.getvalue()}"
    )
    return subprocess.CompletedProcess(list(arguments), returned, out.getvalue(), err.getvalue())


def invoke_entry_point(
    folder: Path, entry: str, *arguments: str, code: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Do what `mlflow run . -e ENTRY ARGUMENTS` does, in this process.

    MLflow creates the run, computes the command and sets the run's status, by the functions that
    `mlflow run` calls.

    Args:
        folder: the current folder of the command.
        entry: an entry point of MLproject.
        arguments: `-P`, `name=value`, ...
        code: the expected exit code of `mlflow run`: 0 or 1.
        env: environment variables.
    """
    from mlflow import MlflowClient
    from mlflow.projects import _project_spec, utils

    assert arguments[::2] == ("-P",) * (len(arguments) // 2), arguments
    given = dict(argument.split("=", 1) for argument in arguments[1::2])
    with restored_process(folder, env):
        experiment = MlflowClient().get_experiment(os.environ.get("MLFLOW_EXPERIMENT_ID", "0"))
        run = utils._create_run(str(ROOT), experiment.experiment_id, str(ROOT), None, entry, given)
        command = (
            _project_spec.load_project(str(ROOT))
            .get_entry_point(entry)
            .compute_command(given, None)
        )
        os.environ.update(utils.get_run_env_vars(run.info.run_id, experiment.experiment_id))
        _, _, module, *words = shlex.split(command)
        done = _run_module(module, words)
    if MlflowClient().get_run(run.info.run_id).info.status == "RUNNING":
        MlflowClient().set_terminated(run.info.run_id, "FAILED" if done.returncode else "FINISHED")
    assert bool(done.returncode) == bool(code), (
        f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done


def _run_module(module: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    out, err, returned, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = [module, *words]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        returned = int(end.code or 0)
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess([module, *words], returned, out.getvalue(), err.getvalue())
