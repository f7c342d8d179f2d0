"""Time that pruning saves in tuning: deep_v1 at 64 px on the 60-class union.

For each seed of `EYEVSAI_SEEDS` (0,1,2 by default): 20 random trials without pruning, then a study
with defaults until its best trial is within one standard error of the best of the 20. Whole
commands. Limit: 40 % of the time, as the median over the seeds.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.photographs import PHOTOS, are_missing, load_union
from benchmarks.variables import read_number, read_numbers

TRIALS, EPOCHS = 20, str(read_number("EYEVSAI_EPOCHS", 9, 1))
FLAGS = [
    "--model",
    "deep_v1",
    "--dataset",
    "combined_all",
    "--image-size",
    "64",
    "--epochs",
    EPOCHS,
]


def tune(folder: str, name: str, seed: int, *flags: str) -> tuple[float, float]:
    """Run a study in a new store; return its best valid accuracy and the seconds."""
    study_dir = Path(folder) / f"{name}-{seed}"
    study_dir.mkdir()
    env = {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "EYEVSAI_STATE": str(study_dir / "state"),
        "EYEVSAI_CACHE": f"{folder}/cache",
        "EYEVSAI_DATA": str(PHOTOS.resolve()),
    }
    command = [sys.executable, "-m", "eyevsai", "tune", *FLAGS, "--seed", str(seed), *flags]
    start = time.perf_counter()
    process = subprocess.run(
        command, cwd=study_dir, env=env, capture_output=True, text=True, check=True
    )
    print(f"  {name} seed {seed}: {process.stdout.splitlines()[0]}", flush=True)
    accuracy = re.search(r"valid accuracy ([\d.]+)", process.stdout)[1]  # type: ignore[index]
    return float(accuracy), time.perf_counter() - start


def main() -> None:
    if are_missing():
        return
    valid = load_union().split_names.count("valid")
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        # fill the pixel cache, so that both studies read from it
        tune(folder, "warm", 0, "--n-trials", "1", "--epochs", "1")
        for seed in read_numbers("EYEVSAI_SEEDS", (0, 1, 2), int, 0):
            plain = ("--sampler", "random", "--pruner", "none", "--n-trials", str(TRIALS))
            best, all_s = tune(folder, "unpruned", seed, *plain)
            target = best - math.sqrt(best * (1 - best) / valid)
            reached, ours_s = tune(
                folder, "pruned", seed, "--n-trials", "60", "--target-value", f"{target:.6f}"
            )
            shares.append(ours_s / all_s if reached >= target else math.inf)
            print(
                f"seed {seed}   unpruned {best:.4f} in {all_s:.0f} s   pruned {reached:.4f} "
                f"(target {target:.4f}) in {ours_s:.0f} s   share {shares[-1]:.2f}",
                flush=True,
            )
    print(f"median share {statistics.median(shares):.2f} (limit 0.40)")
