"""Row `scale`: time per image and peak memory of eyevsai by the number of images."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.data import GROWTH, _vary
from benchmarks.peers.measure import Measurement
from benchmarks.peers.participants import Step
from benchmarks.photographs import PHOTOS
from benchmarks.variables import read_numbers

SCALE = "scale"
TIMEOUT_S = 900.0
MODEL = ("--model", "deep_v1", "--image-size", "64", "--width", "8", "--epochs", "1")
COLUMNS = {
    "index_ms": "index, ms per image",
    "cache_ms": "cache, ms per image",
    "epoch_ms": "epoch, ms per image",
    "evaluate_ms": "prediction of test, ms per image",
    "peak_mib": "these four, peak MiB",
    "train_s": "`train`, s",
    "train_mib": "`train`, peak MiB",
    "evaluate_s": "`evaluate`, s",
    "evaluate_mib": "`evaluate`, peak MiB",
}
Runner = Callable[..., Measurement]


def report_scale(run_step: Runner) -> None:
    """Print a table with a line for each number of images.

    `run_step` runs a step in a folder, with the arguments of `runner.run_step`.
    """
    counts = read_numbers("EYEVSAI_BENCHMARK_SIZES", GROWTH, int, 1)
    print("| images | " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|", flush=True)
    paths = sorted(PHOTOS.glob("*/*/*.jpg"))
    for count in counts:
        with tempfile.TemporaryDirectory() as root:
            data = Path(root) / "set"
            for number in range(count):
                source = paths[number % len(paths)]
                _vary(source, data / source.parent.name / f"{number}.jpg", number)
            values, error = _measure(run_step, data, Path(root))
        cells = [f"{values[name]:,.2f}" if name in values else error for name in COLUMNS]
        print(f"| {count:,} | " + " | ".join(cells) + " |", flush=True)


def _measure(run_step: Runner, data: Path, work: Path) -> tuple[dict[str, float], str]:
    """Return the values of one dataset, and the error of a step that failed."""
    model = f"{data.name}-deep_v1-standard/1"
    steps = {
        "": Step("scale", {"data": str(data)}),
        "train": Step(command=("-m", "eyevsai", "train", "--data", str(data), *MODEL), key="x"),
        "evaluate": Step(command=("-m", "eyevsai", "evaluate", model), key="x"),
    }
    values: dict[str, float] = {}
    for name, step in steps.items():
        result = run_step(step, Path(sys.executable), "ours.py", work, TIMEOUT_S, is_ours=True)
        if result.error:
            return values, result.error
        if name:
            values[f"{name}_s"] = result.values["wall_s"]
            values[f"{name}_mib"] = result.values["peak_mib"]
        else:
            values |= result.values
    return values, ""
