"""Duration of `train-all` with parallel jobs: four models of the digits, two jobs at once.

Whole commands, compared with one job at a time. Limits: 0.65 of the time for short jobs, which
consist mostly of startup and shutdown; 1.0 for compute-bound jobs, since a single job uses both
cores; and 6 s per job more than `eyevsai train` of the same models.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.variables import read_number

MODELS = ("deep_v1/standard", "deep_v1/residual", "deep_v2/resnet", "deep_v2/hybrid")
SHORT, LONG = 2, read_number("EYEVSAI_EPOCHS", 12, 1)
SAME = ("--width", "16", "--tuned", "never")


def run(folder: Path, *arguments: str) -> float:
    """Run an eyevsai command in a folder with a store; return its seconds."""
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "EYEVSAI_STATE": str(folder / "state"),
        "EYEVSAI_CACHE": str(folder / "cache"),
    }
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "eyevsai", *arguments],
        cwd=folder,
        env=env,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def train_all(folder: Path, epochs: int, parallel_jobs: int) -> float:
    """Train all models again with `train-all`; return the seconds."""
    return run(
        folder,
        "train-all",
        "--datasets",
        "digits",
        "--models",
        ",".join(MODELS),
        "--evaluate",
        "false",
        "--force",
        "--epochs",
        str(epochs),
        "--parallel-jobs",
        str(parallel_jobs),
        *SAME,
    )


def train_each(folder: Path, epochs: int) -> float:
    """Train the same models with `eyevsai train`; return the seconds."""
    pairs = (model.split("/") for model in MODELS)
    return sum(
        run(
            folder,
            "train",
            "--model",
            model,
            "--variation",
            variation,
            "--epochs",
            str(epochs),
            *SAME,
        )
        for model, variation in pairs
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, "doctor", "--init")
        train_all(folder, 1, 2)  # warm up the caches of pixels and files
        for title, epochs, limit in (("short", SHORT, 0.65), ("compute-bound", LONG, 1.0)):
            sequential, parallel = train_all(folder, epochs, 1), train_all(folder, epochs, 2)
            print(
                f"four {title} jobs: one after another {sequential:.0f} s, two at once "
                f"{parallel:.0f} s, ratio {parallel / sequential:.2f} (limit {limit})",
                flush=True,
            )
            if epochs == SHORT:
                each = train_each(folder, epochs)
                print(
                    f"by `eyevsai train` {each:.0f} s: {(sequential - each) / len(MODELS):.1f} s "
                    "more per job (limit 6 s)"
                )
