"""Overhead of logging, and CPU time of the start of commands.

Measures the seconds to write an epoch's metrics and a sample of system metrics to the store, and
reports their share of a run of 600 s with epochs of 5 s, as the 60-class union takes at 64 px. Most
of this runs in the write queue's thread, in parallel to the training, but is counted in full.
Limit: 2 %.

The start is CPU seconds as multiples of those of imports that it cannot do without; medians of
rounds in which each command runs once, because the machine may be busy.
"""

from __future__ import annotations

import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EPOCHS, RUN_S, EPOCH_S = 20, 600.0, 5.0
ROUNDS = 5
# ends the process before the first step of an optimizer
FIRST_STEP = """
import contextlib, os, sys
from eyevsai.cli import main, train
@contextlib.contextmanager
def starting(*parts, **values):
    with original(*parts, **values):
        yield
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    register_optimizer_step_pre_hook(lambda *_: os._exit(0))
original, train.starting = train.starting, starting
main.main(["train"])
sys.exit("no step")
"""
IMPORTS = {  # base: imports
    "libraries": "import torch, mlflow",
    "mlflow": "import mlflow",
    "typer": "import typer, rich.console",
}
MODEL = "digits-deep_v1-standard/1"
# command: base, limit
STARTS = {
    "train, to its first step": ("libraries", 1.5),
    f"predict {MODEL} IMAGE": ("libraries", 1.3),
    "registry status": ("mlflow", 1.2),
    "train --help": ("typer", 2.5),
}


def report_starts() -> None:
    """Print the CPU seconds of the start of commands, and their ratios to those of imports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = f"sqlite:///{folder}/mlflow.db"
        env = os.environ | {"MLFLOW_TRACKING_URI": store, "EYEVSAI_CACHE": str(folder / "cache")}
        env |= {"EYEVSAI_STATE": str(folder / "state"), "PYTHONPATH": str(Path.cwd())}
        eyevsai = [sys.executable, "-m", "eyevsai"]
        _cpu_seconds([*eyevsai, "train", "--epochs", "1"], folder, env)
        image = next((folder / "cache" / "digits").rglob("*.png"))
        commands = {
            command: [*eyevsai, *shlex.split(command.replace("IMAGE", str(image)))]
            for command in STARTS
        }
        commands["train, to its first step"] = [sys.executable, "-c", FIRST_STEP]
        for base, code in IMPORTS.items():
            commands[base] = [sys.executable, "-c", code]
        rounds = [
            {name: _cpu_seconds(each, folder, env) for name, each in commands.items()}
            for _ in range(ROUNDS)
        ]
    medians = {name: statistics.median(each[name] for each in rounds) for name in commands}
    for command, (base, limit) in STARTS.items():
        print(
            f"{command:<40} {medians[command]:.2f} s, {medians[command] / medians[base]:.2f} x "
            f"`{IMPORTS[base]}` ({medians[base]:.2f} s, limit {limit} x)"
        )


def _cpu_seconds(command: list[str], folder: Path, env: dict[str, str]) -> float:
    """Return the CPU seconds of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
    report_starts()
