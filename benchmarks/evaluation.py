"""Duration of `eyevsai evaluate`: deep_v1 at 64 px on 1,047 photographs of 60 classes.

Evaluation on corrupted images is disabled. Seconds of the whole command on two cores; limit 60.
EYEVSAI_REPORT=PATH keeps a copy of the report.
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
from benchmarks.variables import read_number

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
            """Run an eyevsai command, and return its standard output."""
            command = (sys.executable, "-m", "eyevsai", *command)
            return subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, check=True
            ).stdout

        trained = call("train", *TRAIN, "--epochs", str(read_number("EYEVSAI_EPOCHS", 5, 1)))
        run_id = re.search(r"run (\w+)", trained)[1]  # type: ignore[index]
        seconds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            output = call("evaluate", "--run", run_id, "--corruption-images", "0")
            seconds.append(time.perf_counter() - start)
        if report := os.environ.get("EYEVSAI_REPORT"):
            (page,) = Path(folder).rglob("test_report.html")
            Path(report).write_bytes(page.read_bytes())
    print(output.splitlines()[0])
    print(
        f"whole command {statistics.median(seconds):.1f} s "
        f"({', '.join(f'{each:.1f}' for each in seconds)}; limit 60)"
    )
