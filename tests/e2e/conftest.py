"""A copy of the project with a store of its own, in which `mlflow run` is what a person types."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

MlflowRun = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("-P", "epochs=2", "-P", "width=8", "-P", "threads=1")


@pytest.fixture
def project(workplace: Path) -> Path:
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, workplace)
    for name in ("eyevsai", "entrypoints"):
        # with the bytecode, which is valid for the copies
        shutil.copytree(ROOT / name, workplace / name)
    return workplace


@pytest.fixture
def mlflow_run(project: Path) -> MlflowRun:
    """Runs `mlflow run . -e ENTRY ...` in the project and returns what became of it."""

    def run(entry: str, *arguments: str, manager: str = "local", code: int = 0, **env: str):  # type: ignore[no-untyped-def]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "run",
            ".",
            "-e",
            entry,
            f"--env-manager={manager}",
            *arguments,
        ]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"PATH": path, "OMP_NUM_THREADS": "1"} | env
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def screenshots() -> Any:
    """docs/screenshots.py, which no package holds."""
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "docs" / "screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.find_chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return module
