"""Accuracy and duration of `eyevsai train` with defaults.

Trains each family on the 60-class union of the photographs, and transfer on pets too. Reports the
best valid accuracy and the minutes of the whole command on two cores, each with its limit, and
writes them to eyevsai/models/measurements.json.
`EYEVSAI_MODELS=shallow python -m benchmarks accuracy` measures one family.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.photographs import PHOTOS, are_missing

WEIGHTS = PHOTOS.parent / "weights" / "mobilenet_v2_backbone.pth"
# normalization with which those weights were trained
HALF = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]


@dataclass(frozen=True)
class Row:
    """A training, with its minimum accuracy and its maximum duration in minutes."""

    model: str
    variation: str
    accuracy: float
    minutes: float
    dataset: str = "combined_all"
    flags: Sequence[str] = ()

    def run(self) -> tuple[float, float]:
        """Train in a new folder with an empty cache; return best valid accuracy and minutes."""
        command = [
            sys.executable,
            "-m",
            "eyevsai",
            "train",
            "--model",
            self.model,
            "--variation",
            self.variation,
            "--dataset",
            self.dataset,
            "--data-dir",
            str(PHOTOS.resolve()),
            *self.flags,
        ]
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "EYEVSAI_CACHE": f"{folder}/cache"}
            start = time.perf_counter()
            process = subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, check=True
            )
            minutes = (time.perf_counter() - start) / 60
        return float(re.search(r"valid accuracy ([\d.]+)", process.stdout)[1]), minutes  # type: ignore[index]


ROWS = [
    Row("deep_v1", "standard", 0.60, 20),
    Row("deep_v2", "resnet", 0.55, 20),
    Row("deep_v2", "densenet", 0.55, 20),
    Row("deep_v2", "hybrid", 0.55, 20),
    Row("shallow", "svm_hog_lbp", 0.60, 3),
    Row("shallow", "rf_hog_lbp", 0.52, 3),
    Row("transfer", "mobilenet_v2", 0.86, 15, flags=["--weights", str(WEIGHTS.resolve()), *HALF]),
    Row("transfer", "efficientnet_lite0", 0.91, 15),
    Row("transfer", "efficientnet_lite0", 0.97, 15, dataset="pets"),
]


def main() -> None:
    if are_missing():
        return
    families = {row.model for row in ROWS}
    selected = set(filter(None, os.environ.get("EYEVSAI_MODELS", "").split(","))) or families
    if unknown := selected - families:
        raise SystemExit(
            f"EYEVSAI_MODELS contains unknown families: {', '.join(sorted(unknown))}. Use a "
            f"comma-separated list of {', '.join(sorted(families))}."
        )
    from eyevsai.models.measurements import update_measurements

    for row in ROWS:
        if row.model in selected:
            accuracy, minutes = row.run()
            if row.dataset == "combined_all":
                values = {"accuracy": accuracy, "minutes": round(minutes, 1)}
                update_measurements({f"{row.model}/{row.variation}": values})
            print(
                f"{row.dataset:<14}{row.model}/{row.variation:<20}valid accuracy {accuracy:.4f} "
                f"(limit {row.accuracy})   {minutes:.1f} min (limit {row.minutes:.0f})",
                flush=True,
            )
