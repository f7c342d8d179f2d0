"""Speed on two cores beside one busy single-threaded process, and without it.

2 threads    as without settings
short spin   2 threads with GOMP_SPINCOUNT=1000: idle threads of OpenMP sleep instead of polling
1 thread     as with `--threads 1`, which `train` recommends beside a busy process

training  epochs of deep_v2 at 96 px on 550 photographs, without the first
features  handcrafted features of images of 128 px, which `predict` of a shallow model computes

Each measurement runs in a process of its own on two cores, in turn; medians of the rounds are
reported, and their ratios to the fair share: 1.5 of 2 cores, hence 0.75 of the speed of 2 threads
without the busy process. Limit: 0.9 of the fair share. EYEVSAI_BENCHMARK_ROUNDS sets the number
of rounds. Linux only.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.photographs import PHOTOS, are_missing
from benchmarks.variables import read_number

ROUNDS = read_number("EYEVSAI_BENCHMARK_ROUNDS", 5, 1)
EPOCHS, SIZE, SECONDS = 4, 96, 3.0
CORES, FAIR_SHARE = 2, 1.5 / 2
POLICIES = {
    "2 threads": {},
    "short spin": {"GOMP_SPINCOUNT": "1000"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
}
DEFAULT = next(iter(POLICIES))
# variables that determine the number of threads, and how they wait, in GNU's and LLVM's OpenMP
VARIABLES = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
TASKS = ("training", "features")


def training() -> float:
    """Return images per second of training, the median of the epochs after the first."""
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.settings import DataSettings
    from eyevsai.models.factory import build, get_family

    settings: Any = get_family("deep_v2").variations["resnet"].settings
    with tempfile.TemporaryDirectory() as cache:
        dataset = load_dataset(DataSettings(dataset="pets", data_dir=str(PHOTOS), cache_dir=cache))
        learner = build(
            "deep_v2", "resnet", settings(image_size=SIZE, epochs=EPOCHS), dataset.classes, seed=0
        )
        data = dataset.open(learner.preprocessing)
        rates: list[float] = []
        learner.fit(data.train, data.valid, lambda epoch, row: rates.append(row["images_per_s"]))
    return statistics.median(rates[1:])


def features() -> float:
    """Return images per second of feature extraction in one process."""
    import numpy as np

    from eyevsai.models.shallow.learner import ShallowLearner
    from eyevsai.models.shallow.settings import SvmSettings

    learner = ShallowLearner("svm_hog_lbp", SvmSettings(), ("a", "b"), 0)
    images = np.random.default_rng(0).integers(0, 256, (32, 148, 148, 3), dtype=np.uint8)
    learner.features(images)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        learner.features(images)
        count += len(images)
    return count / (time.perf_counter() - start)


@contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _measure(task: str, policy: dict[str, str]) -> float:
    """Return the rate of a task in a new process, with `policy` as its only settings of threads."""
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code = f"import eyevsai; from benchmarks.busy import {task}; print({task}())"
    process = subprocess.run(
        [sys.executable, "-c", code], env=env | policy, capture_output=True, text=True, check=True
    )
    return float(process.stdout.split()[-1])


def compare(task: str) -> None:
    """Print the rates of a task with each policy, without and with the busy process."""
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for name, policy in POLICIES.items():
            rates.setdefault((name, "quiet"), []).append(_measure(task, policy))
            with _busy_process():
                rates.setdefault((name, "busy"), []).append(_measure(task, policy))
    median = {key: statistics.median(values) for key, values in rates.items()}
    fair = FAIR_SHARE * median[DEFAULT, "quiet"]
    for (name, load), values in rates.items():
        share = f"   {median[name, load] / fair:.2f} of the fair share" if load == "busy" else ""
        print(
            f"{task:<9}{name:<11} {load:<6}{median[name, load]:8.1f} images/s   "
            f"({', '.join(f'{value:.1f}' for value in values)}){share}",
            flush=True,
        )


def main() -> None:
    if are_missing():
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    for task in TASKS:
        compare(task)
