"""Environments of the peers: one virtual environment for each, with the same torch as ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HOME = Path("~/.cache/eyevsai-benchmarks/peers").expanduser()
STAMP = "requirements.txt"  # in a complete environment: what it was installed from
TORCH = ("torch", "torchvision")
# variables that would lead a peer to our packages, or change the number of its threads
REMOVED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
INSTALL_S = 1800


@dataclass(frozen=True)
class Peer:
    """Another project, with what is installed for it.

    Attributes:
        name: name of the environment.
        title: name in the table.
        requirements: packages to install. Those of `TORCH` get the versions that eyevsai uses.
        package: package whose version the table names.
    """

    name: str
    title: str
    requirements: tuple[str, ...]
    package: str


PEERS = {
    peer.name: peer
    for peer in (
        Peer("timm", "timm", ("timm==1.0.31", "onnx", "onnxscript", "onnxruntime", *TORCH), "timm"),
        # timm, of which vision_learner takes networks by their names
        Peer("fastai", "fastai", ("fastai==2.8.12", "timm==1.0.31", *TORCH), "fastai"),
        Peer(
            "ultralytics",
            "Ultralytics",
            ("ultralytics==8.4.190", "onnx", "onnxscript", "onnxruntime", "onnxslim", *TORCH),
            "ultralytics",
        ),
        Peer(
            "lightning",
            "Lightning + torchvision",
            (
                "pytorch-lightning==2.6.6",
                "jsonargparse[signatures]",
                "onnx",
                "onnxscript",
                "onnxruntime",
                *TORCH,
            ),
            "pytorch-lightning",
        ),
        Peer(
            "skimage",
            "scikit-image + scikit-learn",
            ("scikit-image==0.26.0", "scikit-learn==1.9.1", "pillow"),
            "scikit-image",
        ),
        Peer(
            "autolog",
            "MLflow autolog",
            ("mlflow==3.17.2", "pytorch-lightning==2.6.6", *TORCH),
            "mlflow",
        ),
        Peer("optuna", "Optuna, plain loop", ("optuna==5.0.0", *TORCH), "optuna"),
    )
}


class InstallationError(Exception):
    """A peer cannot be installed here; the message has the reason."""


def pin(requirements: tuple[str, ...], torch_versions: Mapping[str, str]) -> list[str]:
    """Return the requirements, with the given versions of torch and torchvision."""
    return [
        f"{each}=={torch_versions[each]}" if each in torch_versions else each
        for each in requirements
    ]


def our_torch() -> dict[str, str]:
    """Return the versions of torch and torchvision that eyevsai uses."""
    return {name: version(name) for name in TORCH}


def prepare(peer: Peer) -> Path:
    """Return the Python interpreter of a peer's environment; install it if it is missing.

    Raises:
        InstallationError: the packages cannot be installed.
    """
    folder = HOME / peer.name
    python = folder / "bin" / "python"
    requirements = pin(peer.requirements, our_torch())
    text = "\n".join(requirements) + "\n"
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == text:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing {peer.title}: {', '.join(requirements)}", flush=True)
    _call([sys.executable, "-m", "venv", str(folder)])
    _call([*_installer(python), *requirements])
    stamp.write_text(text, encoding="utf-8")
    return python


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a peer's process: no import of our packages, no user settings."""
    values = {name: value for name, value in environ.items() if name not in REMOVED}
    return values | {
        "PYTHONNOUSERSITE": "1",
        "YOLO_OFFLINE": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }


def _installer(python: Path) -> list[str]:
    """Return the command that installs requirements; uv stores files of several peers once."""
    if shutil.which("uv") is None:
        return [str(python), "-m", "pip", "install", "--quiet"]
    cache = HOME / "uv-cache"
    return ["uv", "pip", "install", "--quiet", "--python", str(python), "--cache-dir", str(cache)]


def _call(command: list[str]) -> None:
    environment = clean_environment(os.environ)
    if certificates := environment.get("PIP_CERT"):
        environment.setdefault("SSL_CERT_FILE", certificates)
    try:
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=INSTALL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallationError(f"cannot be installed: {error}") from error
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no output"]
        raise InstallationError(f"cannot be installed: {' '.join(lines[-3:])}")
