"""`eyevsai train --dataset combined_all` at its defaults: each family on the 60-class union of the photographs.

Best valid accuracy and the minutes of the whole command, on two cores, each with its limit.
`EYEVSAI_MODELS=shallow python -m benchmarks accuracy` measures one family.
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
LIMITS = {  # accuracy and minutes
    ("deep_v1", "standard"): (0.60, 20),
    ("deep_v2", "resnet"): (0.55, 20),
    ("deep_v2", "densenet"): (0.55, 20),
    ("deep_v2", "hybrid"): (0.55, 20),
    ("shallow", "svm_hog_lbp"): (0.50, 3),
    ("shallow", "rf_hog_lbp"): (0.40, 3),
}


def train(model: str, variation: str) -> tuple[float, float]:
    """Best valid accuracy and minutes of one training in a folder of its own."""
    command = [sys.executable, "-m", "eyevsai", "train", "--model", model, "--variation", variation,
               "--dataset", "combined_all", "--data-root", str(PHOTOS.resolve())]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "EYEVSAI_CACHE": f"{folder}/cache"}
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
        minutes = (time.perf_counter() - began) / 60
    return float(re.search(r"valid accuracy ([\d.]+)", done.stdout)[1]), minutes  # type: ignore[index]


def main() -> None:
    if not PHOTOS.is_dir():
        print(f"skipped: no photographs at {PHOTOS}; set EYEVSAI_DATA")
        return
    known = {model for model, _ in LIMITS}
    wanted = {name for name in os.environ.get("EYEVSAI_MODELS", "").split(",") if name} or known
    if not wanted <= known:
        raise SystemExit(f"EYEVSAI_MODELS takes {', '.join(sorted(known))} with commas.")
    for (model, variation), (least, most) in LIMITS.items():
        if model in wanted:
            accuracy, minutes = train(model, variation)
            print(f"{model}/{variation:<14}valid accuracy {accuracy:.4f} (limit {least})   "
                  f"{minutes:.1f} min (limit {most})", flush=True)  # fmt: skip
