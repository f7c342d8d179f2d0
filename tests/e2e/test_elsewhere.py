"""A version on another machine: MLflow makes its environment, from a folder without this checkout.

The packages that eyevsai requires come from a local wheelhouse. By default it consists of
stand-ins: wheels without content, one of which leads to the packages of the tests' environment.
With EYEVSAI_TEST_WHEELHOUSE, a folder of real wheels, these are installed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import eyevsai
from tests.conftest import find_port

VERSION = "models:/stripes-deep_v1-standard/1"
TIMEOUT_S = 240


def write_stand_in(folder: Path, requirement: Requirement, files: dict[str, str]) -> None:
    """Write a wheel of the pinned version with the given files and without requirements."""
    (pin,) = requirement.specifier
    stem = f"{requirement.name.replace('-', '_')}-{pin.version}"
    about = f"{stem}.dist-info"
    files |= {
        f"{about}/METADATA": (
            f"Metadata-Version: 2.1\nName: {requirement.name}\nVersion: {pin.version}\n"
        ),
        f"{about}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def write_wheelhouse(folder: Path, model: Path) -> Path:
    """Write a stand-in for each package that the environment of a model needs."""
    folder.mkdir()
    pins = [
        line
        for line in (model / "requirements.txt").read_text().splitlines()
        if not line.startswith("-")
    ]
    pins += yaml.safe_load((model / "python_env.yaml").read_text())["build_dependencies"]
    for requirement in map(Requirement, pins):
        files = {}
        if requirement.name == "mlflow":
            # a path in a .pth file comes after site-packages, and .pth files in it are not read:
            # neither hides the eyevsai that is installed, nor leads to an editable one
            files["tests_environment.pth"] = f"{sysconfig.get_path('purelib')}\n"
            about = f"mlflow-{metadata.version('mlflow')}.dist-info"
            scripts = "[console_scripts]\nuvicorn = uvicorn.main:main\n"
            files[f"{about}/entry_points.txt"] = scripts
        write_stand_in(folder, requirement, files)
    return folder


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


@pytest.fixture
def environment(workplace: Path, tmp_path: Path) -> dict[str, str]:
    """Variables of another machine: an empty HOME, no checkout, packages from a folder."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("no uv here: pip install uv")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").symlink_to(uv)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "bin" / python).symlink_to(Path(sys.executable).resolve())
    home, model = tmp_path / "home", model_dir()
    home.mkdir()
    wheelhouse = os.environ.get("EYEVSAI_TEST_WHEELHOUSE")
    env = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": str(home),
        "MLFLOW_TRACKING_URI": f"sqlite:///{workplace / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_FIND_LINKS": wheelhouse or str(write_wheelhouse(tmp_path / "wheelhouse", model)),
    }
    if wheelhouse:
        done = subprocess.run(
            [uv, "pip", "compile", "--quiet", "requirements.txt"],
            cwd=model,
            env=env,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"packages are missing in {wheelhouse}: {done.stderr.strip()}")
    return env


def model_dir() -> Path:
    from eyevsai.serving.model_dir import fetch_model_dir

    return fetch_model_dir(VERSION)


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    empty, port = tmp_path / "empty", find_port()
    empty.mkdir()
    command = f"models serve -m {VERSION} --env-manager uv --port {port} --workers 1"
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command.split()],
            cwd=empty,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
            process.wait(20)


def ask(url: str, body: Any) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.processes("MLflow makes an environment and serves in it")
def test_a_version_is_served_where_eyevsai_is_not_installed(
    server: str, workplace: Path, tmp_path: Path
) -> None:
    image = next((workplace / "data" / "stripes").rglob("*.png"))
    record = {"image": base64.encodebytes(image.read_bytes()).decode()}
    (answer,) = ask(server, {"dataframe_records": [record]})["predictions"]
    expected = eyevsai.load(VERSION).predict(image)
    assert answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    (installed,) = (tmp_path / "home").glob(".mlflow/envs/*/lib/python*/site-packages/eyevsai")
    (about,) = installed.parent.glob("eyevsai-*.dist-info")
    (wheel,) = (model_dir() / "wheels").glob("*.whl")
    assert wheel.name.startswith(about.name.removesuffix(".dist-info"))


@pytest.mark.slow
def test_a_version_is_installed_by_pip_from_any_folder(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """MLflow's images call pip in another folder than that of the model."""
    target, requirements = tmp_path / "target", model_dir() / "requirements.txt"
    options = ["--no-index", "--no-deps", "--find-links", environment["UV_FIND_LINKS"]]
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--target", str(target)]
    done = subprocess.run(
        [*command, *options, "-r", str(requirements)], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (target / "eyevsai" / "serving" / "pyfunc.py").is_file()
