"""What a run was computed with: package versions, the code's commit, the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from eyevsai.core.version import VERSION

PACKAGES = (
    "mlflow",
    "torch",
    "torchvision",
    "scikit-learn",
    "scikit-image",
    "numpy",
    "pillow",
    "safetensors",
)


def describe_environment() -> dict[str, Any]:
    """Versions, commit and machine as plain values."""
    return {
        "eyevsai": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(),
    }


def git_state() -> dict[str, Any]:
    """Commit of the checkout that eyevsai runs from and whether it was changed; empty outside
    one.
    """
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return {}
    commit = _git(folder, "rev-parse", "HEAD")
    return (
        {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))} if commit else {}
    )


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
