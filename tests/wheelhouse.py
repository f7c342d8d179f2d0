"""Another machine for tests: an empty HOME, no checkout, and packages from a folder of wheels.

By default the wheels are stand-ins without content, one of which leads to the packages of the
tests' environment. With EYEVSAI_TEST_WHEELHOUSE, a folder of real wheels, these are installed.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REAL = "EYEVSAI_TEST_WHEELHOUSE"
BUILD = ("pip",)  # of conda.yaml
COPIED = ("setuptools",)  # wheels with content: a build of a wheel uses them
SCRIPTS = {"mlflow": "mlflow.cli:cli", "uvicorn": "uvicorn.main:main"}


def make_machine(folder: Path, requirements: Iterable[str]) -> dict[str, str]:
    """Return the environment variables of a machine whose HOME and programs are in `folder`.

    Args:
        folder: temporary folder.
        requirements: requirements that pip and uv have to find there.
    """
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("no uv here: pip install uv")
    (folder / "bin").mkdir()
    (folder / "bin" / "uv").symlink_to(uv)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "bin" / python).symlink_to(Path(sys.executable).resolve())
    (folder / "home").mkdir()
    wheels = os.environ.get(REAL) or str(write_wheelhouse(folder / "wheelhouse", requirements))
    return {
        "PATH": f"{folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_CACHE_DIR": str(folder / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_FIND_LINKS": wheels,
    }


def write_wheelhouse(folder: Path, requirements: Iterable[str]) -> Path:
    """Write a stand-in for each requirement: of its pinned version, or else of the installed one.

    Requirements of extras are left out. Those of COPIED are the installed packages.
    """
    folder.mkdir()
    for requirement in map(Requirement, [*requirements, *BUILD]):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name in COPIED:
            _pack_installed(folder, requirement.name)
            continue
        pins = [each.version for each in requirement.specifier if each.operator == "=="]
        _write_stand_in(
            folder, requirement.name, pins[0] if pins else metadata.version(requirement.name)
        )
    return folder


def _write_stand_in(folder: Path, name: str, version: str) -> None:
    """Write a wheel without requirements; that of MLflow leads to the tests' environment."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = f"{stem}.dist-info"
    files = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    if name == "mlflow":
        # a path in a .pth file comes after site-packages, and .pth files in it are not read:
        # neither hides the eyevsai that is installed, nor leads to an editable one
        files["tests_environment.pth"] = f"{sysconfig.get_path('purelib')}\n"
        lines = "".join(f"{name} = {function}\n" for name, function in SCRIPTS.items())
        files[f"{about}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def _pack_installed(folder: Path, name: str) -> None:
    """Write the wheel of an installed package of pure Python."""
    package = metadata.distribution(name)
    wheel = folder / f"{name}-{package.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in package.files or ():
            if path.suffix != ".pyc" and ".." not in path.parts:
                archive.write(package.locate_file(path), path)
