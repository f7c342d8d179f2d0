"""Software and hardware environment of a run: package versions, commit of the code, machine."""

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
    """Return the versions, the commit and the machine as JSON values; None for missing packages."""
    return {
        "eyevsai": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(),
    }


def git_state() -> dict[str, Any]:
    """Return the commit of the checkout of eyevsai, and whether the checkout has changes.

    The keys are `commit` and `changed`. Empty outside a checkout, or if git fails.
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
        result = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
