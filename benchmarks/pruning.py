"""Does giving up bad trials pay? deep_v1 at 64 px on the 60-class union, `EYEVSAI_SEEDS` (0,1,2)
one after another.

First 20 random trials that all run to their end; then a study as `tune` does it by default, until
its best trial is within one standard error of theirs. Whole commands; limit: 40 % of the time, in
the median of the seeds.
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

TRIALS, EPOCHS = 20, os.environ.get("EYEVSAI_EPOCHS", "9")
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
    """Best valid accuracy and seconds of one study in a store of its own."""
    place = Path(folder) / f"{name}-{seed}"
    place.mkdir()
    env = {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "EYEVSAI_STATE": str(place / "state"),
        "EYEVSAI_CACHE": f"{folder}/cache",
        "EYEVSAI_DATA": str(PHOTOS.resolve()),
    }
    command = [sys.executable, "-m", "eyevsai", "tune", *FLAGS, "--seed", str(seed), *flags]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=True)
    print(f"  {name} seed {seed}: {done.stdout.splitlines()[0]}", flush=True)
    return float(re.search(r"valid accuracy ([\d.]+)", done.stdout)[1]), time.perf_counter() - began  # type: ignore[index]


def main() -> None:
    if are_missing():
        return
    valid = load_union().split_names.count("valid")
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        # the pixels are in the cache for both
        tune(folder, "warm", 0, "--n-trials", "1", "--epochs", "1")
        for seed in map(int, os.environ.get("EYEVSAI_SEEDS", "0,1,2").split(",")):
            plain = ("--sampler", "random", "--pruner", "none", "--n-trials", str(TRIALS))
            best, all_s = tune(folder, "unpruned", seed, *plain)
            wanted = best - math.sqrt(best * (1 - best) / valid)
            reached, ours_s = tune(
                folder, "pruned", seed, "--n-trials", "60", "--target-value", f"{wanted:.6f}"
            )
            shares.append(ours_s / all_s if reached >= wanted else math.inf)
            print(
                f"seed {seed}   unpruned {best:.4f} in {all_s:.0f} s   pruned {reached:.4f} "
                f"(wanted {wanted:.4f}) in {ours_s:.0f} s   share {shares[-1]:.2f}",
                flush=True,
            )
    print(f"median share {statistics.median(shares):.2f} (limit 0.40)")
