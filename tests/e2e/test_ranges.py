"""Both ends of the ranges of dependencies: the wheel is installed with the pins of constraints/,
and commands from training to promotion run there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from packaging.utils import canonicalize_name

from eyevsai.serving.wheel import pack_wheel
from tests.ranges import EXTRAS, FOLDER, PYTHON, RESOLUTIONS, list_requirements, read_pins

# kept between runs: an environment has 5 GB
ENVIRONMENTS = Path.home() / ".cache" / "eyevsai-tests" / "ranges"
LIMIT_S = 1500
LIST = (
    "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
)
VERSION = "digits-deep_v1-standard/1"
Eyevsai = Callable[..., str]


def call(command: list[str], folder: Path, env: dict[str, str] | None = None) -> str:
    finished = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def install(end: str, folder: Path) -> Path:
    """Install the wheel of this checkout with the pins of one end; return the python."""
    environment = ENVIRONMENTS / end
    python = environment / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    if not python.is_file():
        call([*uv, "venv", "--quiet", "--clear", "--python", PYTHON, str(environment)], folder)
    (wheel,) = [path for path in pack_wheel() if path.endswith(".whl")]
    path = folder / Path(wheel).name
    path.write_bytes(pack_wheel()[wheel])
    options = ["--quiet", "--python", str(python), "--constraint", str(FOLDER / f"{end}.txt")]
    call([*uv, "pip", "install", *options, f"{path}[{','.join(EXTRAS)}]"], folder)
    return python


@pytest.fixture(params=RESOLUTIONS)
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Eyevsai]:
    """Return an end's name, its python and its `eyevsai`, in a folder outside of the checkout."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with FileLock(ENVIRONMENTS / f"{request.param}.lock"):
        python = install(request.param, tmp_path)
        work = tmp_path / "work"
        work.mkdir()
        variables = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        variables |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}

        def run(*words: str) -> str:
            return call([str(python), "-m", "eyevsai", *words], work, variables)

        yield request.param, python, run


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.xdist_group("ranges")  # one after the other
@pytest.mark.processes("commands in an environment of its own")
def test_wheel_trains_exports_and_promotes_with_both_ends(
    environment: tuple[str, Path, Eyevsai], tmp_path: Path
) -> None:
    end, python, eyevsai = environment
    installed = dict(text.split("==") for text in call([str(python), "-c", LIST], tmp_path).split())
    versions = {canonicalize_name(name): version for name, version in installed.items()}
    for name in {canonicalize_name(each.name) for each in list_requirements()}:
        assert str(read_pins(end)[name].specifier) == f"=={versions[name].partition('+')[0]}"

    small = ("--dataset", "digits", "--seed", "1")
    eyevsai("tune", "--model", "deep_v1", *small, "--n-trials", "2", "--epochs", "1")
    eyevsai("train", "--model", "deep_v1", *small, "--epochs", "2")
    eyevsai("train", "--model", "shallow", *small)
    transfer = (
        "--model",
        "transfer/efficientnet_lite0",
        *small,
        "--image-size",
        "64",
        "--freeze-epochs",
        "1",
    )
    eyevsai("train", *transfer, "--fine-tune-epochs", "1")
    evaluation = json.loads(eyevsai("evaluate", VERSION, "--corruption-images", "20", "--json"))
    assert evaluation["metrics"]["accuracy"] > 0.5
    for extension in ("onnx", "openvino", "tensorflow"):
        eyevsai("export", VERSION, "--format", extension)
    image = tmp_path / ".cache" / "eyevsai" / "digits" / "7" / "0007.png"
    printed = eyevsai("predict", VERSION, str(image))
    assert f"{image}\t7\t" in printed
    assert "production: models:/" in eyevsai("promote", VERSION, "--reason", "a test")
