"""Overhead of logging, and duration of `eyevsai train --help`.

Measures the seconds to write an epoch's metrics and a sample of system metrics to the store, and
reports their share of a run of 600 s with epochs of 5 s, as the 60-class union takes at 64 px. Most
of this runs in the write queue's thread, in parallel to the training, but is counted in full.
Limits: 2 %, and 0.6 s for `--help`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EPOCHS, RUN_S, EPOCH_S = 20, 600.0, 5.0


def logging_seconds() -> tuple[float, float]:
    """Return median seconds to log an epoch's metrics, and to log a sample of system metrics.

    Both include the writes to the store.
    """
    from eyevsai.store.backend import open_store
    from eyevsai.tracking.run_lifecycle import start_run
    from eyevsai.tracking.system_metrics import Monitor

    names = (
        "train/loss",
        "train/accuracy",
        "valid/loss",
        "valid/accuracy",
        "lr",
        "images_per_s",
        "grad_accum_steps",
    )
    metrics = dict.fromkeys(names, 0.5)
    with (
        tempfile.TemporaryDirectory() as state,
        start_run(open_store(), "overhead", {"eyevsai.job": "benchmark"}, Path(state)) as run,
    ):
        run.flush()
        monitor = Monitor(run)

        def log_epoch(step: int) -> None:
            run.log_metrics(metrics, step)
            run.flush()

        def sample() -> None:  # one iteration of the monitor's thread
            monitor.collect_metrics()  # type: ignore[no-untyped-call]
            monitor.publish_metrics(monitor.aggregate_metrics())  # type: ignore[no-untyped-call]
            run.flush()

        epochs = [_timed(lambda step=step: log_epoch(step)) for step in range(EPOCHS)]  # type: ignore[misc]
        samples = [_timed(sample) for _ in range(EPOCHS)]
    return statistics.median(epochs), statistics.median(samples)


def _timed(action) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    from eyevsai.tracking.system_metrics import SYSTEM_METRICS_EVERY_S

    with tempfile.TemporaryDirectory() as folder:
        code = "from benchmarks.overhead import logging_seconds; print(*logging_seconds())"
        env = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_LOGGING_LEVEL": "ERROR",
            "PYTHONPATH": str(Path.cwd()),
        }
        process = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    epoch, sample = map(float, process.stdout.split()[-2:])
    share = (epoch * RUN_S / EPOCH_S + sample * RUN_S / SYSTEM_METRICS_EVERY_S) / RUN_S
    print(
        f"one epoch's metrics {epoch * 1000:.1f} ms, one sample of system metrics "
        f"{sample * 1000:.1f} ms"
    )
    print(f"logging, share of a 10-minute run  {share:.2%}   (limit 2 %)")
    command = [sys.executable, "-m", "eyevsai", "train", "--help"]
    help_seconds = [
        _timed(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(7)
    ]
    print(
        f"eyevsai train --help               {statistics.median(help_seconds):.2f} s   "
        "(limit 0.6 s)"
    )
