"""A copy of the project, in which `mlflow run` is what a person types, and a store with a version
in Production.
"""

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

from tests.conftest import ROOT, copy_trained, once
from tests.e2e.stripes import NAME, evaluate_and_promote, train_version
from tests.served import Served

MlflowRun = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("-P", "epochs=2", "-P", "width=8", "-P", "threads=1")


@pytest.fixture(scope="session")
def served_store(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of one version in Production; never write to it."""

    def build(folder: Path) -> None:
        evaluate_and_promote(train_version(folder, template_store, cache_dir))

    return once(tmp_path_factory, "served", build)


@pytest.fixture
def served_project(served_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of `served_store`, as the current folder, which has an inference log: a module
    makes it its `workplace`. The copied run names the images of the original.
    """
    folder = copy_trained(served_store, tmp_path / "project", monkeypatch)
    monkeypatch.setenv("EYEVSAI_LOG", f"sqlite:///{folder / 'log.db'}")
    return folder


@pytest.fixture
def served(workplace: Path) -> Served:
    """Return the inference log of the served version, to which a test adds answers."""
    return Served(workplace / "log.db", NAME)


@pytest.fixture
def steps_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the steps of a retraining in this process."""
    from eyevsai.executors import base
    from eyevsai.workflows.watch import steps
    from tests.in_process_executor import InProcessExecutor

    monkeypatch.setattr(
        steps, "make_executor", lambda settings, max_workers: InProcessExecutor(max_workers)
    )
    monkeypatch.setattr(base, "POLL_S", 0.01)


@pytest.fixture(scope="session")
def decoded_digits(cache_dir: Path) -> None:
    """Decode the digits, so that a test which is the first to use them starts no workers."""
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.preprocessing import Preprocessing
    from eyevsai.data.settings import DataSettings

    load_dataset(DataSettings(dataset="digits", cache_dir=str(cache_dir))).open(Preprocessing(32))


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
