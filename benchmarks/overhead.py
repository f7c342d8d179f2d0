"""What logging adds to a run, and how long help takes.

What an epoch's row and a sample of system metrics take, until the store has them, is set against a
run of 600 s with epochs of 5 s, as the 60-class union takes at 64 px. The write queue's thread does
most of it beside the training; here it counts in full. Limit: 2 %. `eyevsai train --help`: limit
0.6 s.
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
    """Median seconds of one epoch's logging and of one sample of system metrics, the store's part
    in it.
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
    row = dict.fromkeys(names, 0.5)
    with (
        tempfile.TemporaryDirectory() as state,
        start_run(open_store(), "overhead", {"eyevsai.job": "benchmark"}, Path(state)) as run,
    ):
        run.flush()
        monitor = Monitor(run)

        def log_row(step: int) -> None:
            run.log_metrics(row, step)
            run.flush()

        def sample() -> None:  # what the monitor's thread does each time round
            monitor.collect_metrics()  # type: ignore[no-untyped-call]
            monitor.publish_metrics(monitor.aggregate_metrics())  # type: ignore[no-untyped-call]
            run.flush()

        epochs = [_timed(lambda step=step: log_row(step)) for step in range(EPOCHS)]  # type: ignore[misc]
        samples = [_timed(sample) for _ in range(EPOCHS)]
    return statistics.median(epochs), statistics.median(samples)


def _timed(action) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    from eyevsai.tracking.system_metrics import SYSTEM_METRICS_EVERY_S

    with tempfile.TemporaryDirectory() as folder:
        code = "from benchmarks.overhead import logging_seconds; print(*logging_seconds())"
        env = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_LOGGING_LEVEL": "ERROR",
            "PYTHONPATH": str(Path.cwd()),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    epoch, sample = map(float, done.stdout.split()[-2:])
    share = (epoch * RUN_S / EPOCH_S + sample * RUN_S / SYSTEM_METRICS_EVERY_S) / RUN_S
    print(
        f"one epoch's row {epoch * 1000:.1f} ms, one sample of system metrics "
        f"{sample * 1000:.1f} ms"
    )
    print(f"logging, share of a 10-minute run  {share:.2%}   (limit 2 %)")
    command = [sys.executable, "-m", "eyevsai", "train", "--help"]
    helps = [
        _timed(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(7)
    ]
    print(f"eyevsai train --help               {statistics.median(helps):.2f} s   (limit 0.6 s)")
