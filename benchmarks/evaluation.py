"""`eyevsai evaluate` of deep_v1 at 64 px on a thousand photographs of 60 classes, corruptions
aside.

Seconds of the whole command, on two cores; limit 60.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.photographs import PHOTOS, are_missing

ROUNDS = 3
TRAIN = [
    "--dataset",
    "combined_all",
    "--model",
    "deep_v1",
    "--image-size",
    "64",
    "--test-fraction",
    "0.2",
]


def main() -> None:
    if are_missing():
        return
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "PYTHONPATH": str(Path.cwd()),
            "EYEVSAI_CACHE": f"{folder}/cache",
            "EYEVSAI_STATE": f"{folder}/state",
            "EYEVSAI_DATA": str(PHOTOS.resolve()),
        }

        def call(*command: str) -> str:
            command = (sys.executable, "-m", "eyevsai", *command)
            return subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, check=True
            ).stdout

        trained = call("train", *TRAIN, "--epochs", os.environ.get("EYEVSAI_EPOCHS", "5"))
        run_id = re.search(r"run (\w+)", trained)[1]  # type: ignore[index]
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            said = call("evaluate", "--run", run_id, "--corruption-images", "0")
            seconds.append(time.perf_counter() - began)
        if keep := os.environ.get("EYEVSAI_REPORT"):  # to look at
            (page,) = Path(folder).rglob("test_report.html")
            Path(keep).write_bytes(page.read_bytes())
    print(said.splitlines()[0])
    print(
        f"whole command {statistics.median(seconds):.1f} s "
        f"({', '.join(f'{each:.1f}' for each in seconds)}; limit 60)"
    )
