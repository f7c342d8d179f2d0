"""Accuracy and duration of `eyevsai train` with defaults.

Trains each family on the 60-class union of the photographs, and transfer on pets too. Reports the
best valid accuracy and the minutes of the whole command on two cores, each with its limit, and
writes them to eyevsai/models/measurements.json.

`EYEVSAI_MODELS=shallow,deep_v2/hybrid` selects families and variations; `EYEVSAI_MINUTES=20` trains
networks for 20 minutes instead of their default epochs; EYEVSAI_BENCHMARK_ROUNDS is the number of
seeds (default: 1), whose medians are reported.
"""

from __future__ import annotations

import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.photographs import PHOTOS, are_missing
from benchmarks.variables import read_number

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

    @property
    def name(self) -> str:
        """Return family/variation."""
        return f"{self.model}/{self.variation}"

    def run(self, seed: int, minutes: float) -> tuple[float, float]:
        """Train in a new folder with an empty cache; return best valid accuracy and minutes.

        Exits with the message of `train` if that fails.

        Args:
            seed: seed of the training.
            minutes: time budget; 0: the default epochs.
        """
        budget = ("--minutes", f"{minutes:g}") if minutes else ()
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
            "--seed",
            str(seed),
            *budget,
        ]
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "EYEVSAI_CACHE": f"{folder}/cache"}
            start = time.perf_counter()
            process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
            used = (time.perf_counter() - start) / 60
        if process.returncode:
            raise SystemExit(f"{shlex.join(command)} failed:\n{process.stderr}")
        return float(re.search(r"valid accuracy ([\d.]+)", process.stdout)[1]), used  # type: ignore[index]


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


def select_rows(text: str) -> list[Row]:
    """Return the rows of the families and variations of EYEVSAI_MODELS; all if it is empty.

    Exits with an error if a name is unknown.
    """
    names = {row.model for row in ROWS} | {row.name for row in ROWS}
    selected = {part.strip() for part in text.split(",") if part.strip()}
    if unknown := selected - names:
        raise SystemExit(
            f"EYEVSAI_MODELS contains unknown names: {', '.join(sorted(unknown))}. Use a "
            f"comma-separated list of {', '.join(sorted(names))}."
        )
    return [row for row in ROWS if not selected or {row.model, row.name} & selected]


def main() -> None:
    rows = select_rows(os.environ.get("EYEVSAI_MODELS", ""))
    seeds = range(read_number("EYEVSAI_BENCHMARK_ROUNDS", 1, 1))
    budget = read_number("EYEVSAI_MINUTES", 0.0, 0.0)
    if are_missing():
        return
    from eyevsai.models.measurements import update_measurements

    for row in rows:
        results = []
        for seed in seeds:
            results.append(row.run(seed, budget))
            accuracy, minutes = results[-1]
            print(
                f"{row.dataset:<14}{row.name:<28}seed {seed}   valid accuracy {accuracy:.4f} "
                f"(limit {row.accuracy})   {minutes:.1f} min (limit {row.minutes:.0f})",
                flush=True,
            )
        accuracy, minutes = (statistics.median(values) for values in zip(*results, strict=True))
        if len(seeds) > 1:
            print(f"{row.dataset:<14}{row.name:<28}median   {accuracy:.4f}   {minutes:.1f} min")
        if row.dataset == "combined_all":
            values = {"accuracy": round(accuracy, 4), "minutes": round(minutes, 1)}
            update_measurements({row.name: values})
