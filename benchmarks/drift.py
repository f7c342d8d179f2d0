"""Drift, accuracy without labels, and always-valid tests: speed, simulations, photographs.

Reports the CPU seconds and the memory of the drift of 10,000 images of 60 classes from stored
probabilities (limits 2 s and 200 MB), and of 1,000,000 images in windows of 200 (limit 10 s); the
simulations of `benchmarks.evidence`; and, of photographs, the rates of
`benchmarks.drift_photographs`.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import drift_photographs, evidence

# a new process: imports count, and the memory is that of nothing else
MEASURE = """
import re, time
from pathlib import Path
import numpy as np
random = np.random.default_rng(0)
window = random.dirichlet(np.full(60, 0.05), 10_000).astype(np.float16)
probabilities = random.dirichlet(np.full(60, 0.05), 6_000).astype(np.float16)
labels, classes = random.integers(0, 60, 6_000), [str(number) for number in range(60)]
statistics = random.random((10_000, 6), dtype=np.float32)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
before, began = peak(), time.process_time()
from eyevsai.evaluation.comparison import WindowComparer
from eyevsai.evaluation.drift import detect_drift
from eyevsai.evaluation.reference import make_reference
detect_drift(probabilities, window, classes)
print(time.process_time() - began, peak() - before)
reference = make_reference(
    tuple(classes), probabilities, labels, np.arange(6_000), statistics[:6_000], split="test",
    temperature=1.0,
)
comparer = WindowComparer(reference)
comparer.compare(window, statistics)
print(time.process_time() - began, peak() - before)
began = time.process_time()
for number in range(5_000):
    part = slice(number % 50 * 200, (number % 50 + 1) * 200)
    comparer.compare(window[part], statistics[part])
print(time.process_time() - began, peak() - before)
"""


def main() -> None:
    process = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    rows = {
        "drift of 10,000 images": 2,
        "with accuracy and label shift": 2,
        "1,000,000 in windows of 200": 10,
    }
    for (title, limit), line in zip(rows.items(), process.stdout.splitlines(), strict=True):
        seconds, megabytes = map(float, line.split())
        print(f"{title:<36}{seconds:6.2f} s {megabytes:6.0f} MB   (limits {limit} s, 200 MB)")
    print()
    evidence.report()
    print()
    drift_photographs.report()
