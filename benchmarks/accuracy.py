"""`eyevsai train --dataset combined_all` at its defaults: deep_v1 on the 60-class union of the photographs.

Limit: best valid accuracy 0.60 within 20 minutes on two cores.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHOTOS = Path(os.environ.get("EYEVSAI_DATA", "../shared/photos"))


def main() -> None:
    if not PHOTOS.is_dir():
        print(f"skipped: no photographs at {PHOTOS}; set EYEVSAI_DATA")
        return
    command = [
        sys.executable,
        "-m",
        "eyevsai",
        "train",
        "--dataset",
        "combined_all",
        "--data-root",
        str(PHOTOS.resolve()),
    ]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "EYEVSAI_CACHE": f"{folder}/cache"}
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
        minutes = (time.perf_counter() - began) / 60
    accuracy = float(re.search(r"valid accuracy ([\d.]+)", done.stdout)[1])  # type: ignore[index]
    print(f"best valid accuracy {accuracy:.4f}   (limit 0.60)")
    print(f"whole command       {minutes:.1f} min  (limit 20 min)")
