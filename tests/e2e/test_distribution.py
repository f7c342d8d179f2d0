"""Wheel and sdist of eyevsai: complete, accepted by an index, enough from data to predictions.

The wheel is installed into a new environment on a machine with an empty HOME and without this
checkout; see `tests/wheelhouse.py` for its packages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import ROOT, once
from tests.wheelhouse import make_machine

SOURCES = ("eyevsai", "pyproject.toml", "README.md", "LICENSE")
VERSION = "digits-deep_v1-standard/1"
Command = Callable[..., str]


def call(command: list[str], folder: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def build(folder: Path) -> None:
    """Build sdist and wheel of a copy of the sources: setuptools writes beside them."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    command = ["uv", "build", "--offline", "--no-build-isolation", "--python", sys.executable]
    call([sys.executable, "-m", *command, "--out-dir", str(folder / "dist"), "source"], folder)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "dist", build) / "dist"


@pytest.fixture
def metadata_of_wheel(dist: Path) -> str:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(path).decode()


@pytest.mark.slow
@pytest.mark.processes("uv builds sdist and wheel")
def test_wheel_and_sdist_have_each_file_of_the_package_and_the_licence(dist: Path) -> None:
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "eyevsai").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == package
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in declared["license-files"]:
        assert any(name.endswith(f".dist-info/licenses/{path}") for name in names)
    with tarfile.open(sdist) as source:
        members = {name.partition("/")[2] for name in source.getnames()}
    assert package | set(SOURCES) <= members


@pytest.mark.slow
@pytest.mark.processes("uv builds sdist and wheel; twine checks them")
def test_an_index_accepts_both_and_renders_the_readme(dist: Path, metadata_of_wheel: str) -> None:
    from readme_renderer import markdown

    files = [str(path) for path in sorted(dist.iterdir()) if path.suffix in (".whl", ".gz")]
    call([sys.executable, "-m", "twine", "check", "--strict", *files], dist)
    about = Parser().parsestr(metadata_of_wheel)
    assert about["Description-Content-Type"] == "text/markdown"
    page = markdown.render(about.get_payload())
    assert page is not None
    for element in ("<h1", "<table", "<pre"):
        assert element in page
    assert re.findall(r'<img[^>]+src="(?!https://)[^"]*"', page) == []
    assert "not run:" not in page  # comments of the tests


@pytest.fixture
def machine(dist: Path, metadata_of_wheel: str, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A working folder outside the checkout, and the variables of an environment with the wheel."""
    requirements = Parser().parsestr(metadata_of_wheel).get_all("Requires-Dist") or []
    env = make_machine(tmp_path, requirements)
    venv, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    call(["uv", "venv", "--python", sys.executable, str(venv)], work, env)
    (wheel,) = dist.glob("*.whl")
    call(["uv", "pip", "install", "--python", str(venv), str(wheel)], work, env)
    return work, env | {"PATH": f"{venv / 'bin'}:{env['PATH']}"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.processes("each command runs in the environment of another machine")
def test_the_wheel_is_enough_from_an_empty_folder_to_predictions(
    machine: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, env = machine
    project = folder / "birds"

    def run(line: str) -> str:
        return call(line.split(), project if project.exists() else folder, env)

    run("eyevsai init birds")
    small = "-P model=deep_v1 -P epochs=3 -P width=8"
    assert f"models:/{VERSION}" in run(f"mlflow run . -e train {small} --env-manager=local")
    assert "on 269 images of digits" in run(f"eyevsai evaluate {VERSION} --corruption-images 0")
    assert "production:" in run(f"eyevsai promote {VERSION} --reason first")
    assert "onnx: runs:/" in run("eyevsai export digits-deep_v1-standard/Production --format onnx")
    images = tmp_path / "home" / ".cache" / "eyevsai" / "digits" / "3"
    assert '"label": "3"' in run(f"eyevsai predict {VERSION} {images} --json")
    assert f"models:/{VERSION[:-1]}2" in run(f"mlflow run . -e train {small} --env-manager=uv")
    (wheel,) = (project / "wheels").iterdir()
    (about,) = (tmp_path / "home").glob(
        ".mlflow/envs/*/lib/python*/site-packages/eyevsai-*.dist-info"
    )
    assert wheel.name.startswith(about.name.removesuffix(".dist-info"))
    runs = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_runs(["1"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(path.name for path in (project / "mlruns").iterdir())[0] == ".gitkeep"
