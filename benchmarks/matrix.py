"""Jobs side by side: four models of the digits by `train-all`, two at once against one after
another, whole commands.

Limits: 0.65 of the time for short jobs, which mostly begin and end; 1.0 for jobs that compute all
    the time, since a job alone has both cores; and beside `eyevsai train` of the same models, 6 s a
    job.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = ("deep_v1/standard", "deep_v1/residual", "deep_v2/resnet", "deep_v2/hybrid")
SHORT, LONG = 2, int(os.environ.get("EYEVSAI_EPOCHS", "12"))
SAME = ("--width", "16", "--tuned", "never")


def run(folder: Path, *arguments: str) -> float:
    """Seconds of one command in a folder with a store."""
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "EYEVSAI_STATE": str(folder / "state"),
        "EYEVSAI_CACHE": str(folder / "cache"),
    }
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "eyevsai", *arguments],
        cwd=folder,
        env=env,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


def train_all(folder: Path, epochs: int, at_once: int) -> float:
    """Seconds of the matrix, nothing of which was done before."""
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
        str(at_once),
        *SAME,
    )


def train_each(folder: Path, epochs: int) -> float:
    """Seconds of the same by `eyevsai train`."""
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
        train_all(folder, 1, 2)  # pixels and files are in the caches for all
        for title, epochs, limit in (("short", SHORT, 0.65), ("compute-bound", LONG, 1.0)):
            alone, beside = train_all(folder, epochs, 1), train_all(folder, epochs, 2)
            print(
                f"four {title} jobs: one after another {alone:.0f} s, two at once {beside:.0f} s, "
                f"ratio {beside / alone:.2f} (limit {limit})",
                flush=True,
            )
            if epochs == SHORT:
                each = train_each(folder, epochs)
                print(
                    f"by `eyevsai train` {each:.0f} s: {(alone - each) / len(MODELS):.1f} s a "
                    "job more (limit 6 s)"
                )
