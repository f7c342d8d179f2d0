"""A version on another machine: MLflow makes its environment, in a folder without this checkout."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import eyevsai
from tests.conftest import find_port
from tests.wheelhouse import REAL, make_machine

VERSION = "models:/stripes-deep_v1-standard/1"
TIMEOUT_S = 240


def read_requirements(model: Path) -> list[str]:
    """Return what the environment of a model needs, without eyevsai."""
    lines = (model / "requirements.txt").read_text().splitlines()
    build = yaml.safe_load((model / "python_env.yaml").read_text())["build_dependencies"]
    return [*(line for line in lines if not line.startswith("-")), *build]


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


@pytest.fixture
def environment(workplace: Path, tmp_path: Path) -> dict[str, str]:
    """Variables of another machine: an empty HOME, no checkout, packages from a folder."""
    model = model_dir()
    env = make_machine(tmp_path, read_requirements(model))
    env["MLFLOW_TRACKING_URI"] = f"sqlite:///{workplace / 'mlflow.db'}"
    if wheelhouse := os.environ.get(REAL):
        done = subprocess.run(
            ["uv", "pip", "compile", "--quiet", "requirements.txt"],
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
