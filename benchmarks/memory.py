"""Peak memory of training with and without `--memory-efficient`, at the same effective batch size.

Each network is measured in a new process: the increase of VmHWM in /proc/self/status during three
steps. getrusage is not used, because it includes the parent's memory. Limit: half the memory.
"""

from __future__ import annotations

import subprocess
import sys

CASES = (
    ("deep_v1", "residual"),
    ("deep_v2", "resnet"),
    ("deep_v2", "densenet"),
    ("deep_v2", "hybrid"),
)
MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
from eyevsai.data.dataset import Split
from eyevsai.data.pixel_cache import PixelCache
from eyevsai.models.factory import build, get_family
import torch
family, variation, efficient = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
settings = get_family(family).variations[variation].settings(
    epochs=1, batch_size=64, image_size=96, precision="float32", memory_efficient=efficient,
    initial_scale=1.0, whitening=False,
)
learner = build(family, variation, settings, tuple("abc"), seed=0)
side, count = learner.preprocessing.short_side_px, 192
shapes = np.full((count, 2), side, dtype=np.int32)
flat = np.random.default_rng(0).integers(0, 256, count * 3 * side * side, dtype=np.uint8)
pixels = PixelCache(flat, shapes, np.arange(count, dtype=np.int64) * 3 * side * side)
train = Split(pixels, range(count), torch.arange(count) % 3)
valid = Split(pixels, range(2), torch.arange(2))
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = peak()
learner.fit(train, valid, lambda epoch, row: print(peak() - before))
"""


def peak_mib(family: str, variation: str, *, efficient: bool) -> float:
    """Return the increase of peak memory by a training, in MiB."""
    command = [sys.executable, "-c", MEASURE, family, variation, str(efficient)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(process.stdout.split()[-1])


def main() -> None:
    for family, variation in CASES:
        default, reduced = (peak_mib(family, variation, efficient=each) for each in (False, True))
        print(
            f"{family}/{variation:<10}{default:>8.0f} MiB, memory-efficient {reduced:>6.0f} MiB: "
            f"{reduced / default:.2f}   (limit 0.50)",
            flush=True,
        )
