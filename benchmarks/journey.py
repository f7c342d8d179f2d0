"""Duration and valid accuracy of `mlflow run . -e train -P model=deep_v1` on digits.

Limits: 60 s for the command, without installation; best valid accuracy 0.985; 20 s for start and
end of a run, which is the duration of a run of one epoch minus that of the epoch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_project(folder: Path, *extras: str) -> tuple[float, str]:
    """Return seconds and output of the command with extra arguments; exit if it fails."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "run",
        ".",
        "-e",
        "train",
        "-P",
        "model=deep_v1",
        "--env-manager=local",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "EYEVSAI_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    process = subprocess.run(
        [*command, *extras], cwd=folder, env=env, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(process.stdout + process.stderr)
    return seconds, process.stdout + process.stderr


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("MLproject", "conda.yaml"):
            shutil.copy(ROOT / part, folder)
        for part in ("eyevsai", "entrypoints"):
            shutil.copytree(ROOT / part, folder / part)
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "eyevsai", "doctor", "--init"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        created = time.perf_counter() - start
        seconds, output = run_project(folder)
        accuracy = float(re.search(r"valid accuracy ([\d.]+)", output)[1])  # type: ignore[index]
        short, output = run_project(folder, "-P", "epochs=1")
        rate = float(re.search(r"images_per_s ([\d.]+)", output)[1])  # type: ignore[index]
        epoch = 1259 / rate
    print(f"store creation         {created:5.1f} s")
    print(
        f"whole run              {seconds:5.1f} s   (with store creation "
        f"{created + seconds:.1f} s; limit 60 s)"
    )
    print(f"best valid accuracy    {accuracy:.4f}  (limit 0.985)")
    print(f"start and end of a run {short - epoch:5.1f} s   (limit 20 s)")
