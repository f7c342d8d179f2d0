"""Rows of the comparison: what each participant runs, and the metrics of the table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.participants import Participant, Row, Step
from benchmarks.peers.table import OURS, Metric
from benchmarks.photographs import write_classes, write_split

CORES = 2
SIZE, BATCH, EPOCHS = 128, 64, 2
IMAGES, CLASSES = 1000, 10  # of `export`
TUNING_TARGET, TUNING_EPOCHS, TUNING_TRIALS, TUNING_SIZE = 0.68, 12, 40, 64
TRACKED_EPOCHS = 100

WALL = Metric("wall_s", "whole process, s")
MEMORY = Metric("peak_mib", "peak memory, MiB")


def summarize_epochs(values: Mapping[str, float], images: int) -> dict[str, float]:
    """Return the first epoch, the median of the later ones, and their images per second."""
    seconds = [value for name, value in values.items() if name.startswith("epoch_")]
    if len(seconds) < 2:
        return {}
    later = statistics.median(seconds[1:])
    return {"first_s": seconds[0], "later_s": later, "images_per_s": images / later}


def _epoch(**more: Any) -> Callable[[Path, int], Sequence[Step]]:
    def steps(data: Path, repeat: int) -> Sequence[Step]:
        values = {"data": str(data), "size": SIZE, "batch": BATCH, "epochs": EPOCHS}
        return [Step("epoch", values | more)]

    return steps


def _export(**more: Any) -> Callable[[Path, int], Sequence[Step]]:
    def steps(data: Path, repeat: int) -> Sequence[Step]:
        values = {"data": str(data), "size": SIZE, "classes": CLASSES, "images": IMAGES}
        return [Step("export", values | more)]

    return steps


def _our_start(data: Path, repeat: int) -> Sequence[Step]:
    train = f"train --data {data} --model deep_v1 --image-size {SIZE} --batch-size {BATCH}".split()
    start = {"arguments": [*train, "--epochs", "1"], "batch": BATCH}
    return [
        Step("command_line", start, key="first_command_s"),
        Step("command_line", start, key="first_batch_s"),
        Step(command=("-m", "eyevsai", "train", "--help"), key="help_s"),
    ]


def _ultralytics_start(data: Path, repeat: int) -> Sequence[Step]:
    train = f"classify train model=yolo11n-cls.yaml data={data} imgsz={SIZE} batch={BATCH}".split()
    train += ["epochs=1", "device=cpu", "workers=2", "plots=False", "project=runs"]
    start = {"arguments": train, "batch": BATCH}
    return [
        Step("command_line", start, key="first_command_s"),
        Step("command_line", start, key="first_batch_s"),
        Step("command_line", {"arguments": ["help"], "batch": 0}, key="help_s"),
    ]


def _lightning_start(data: Path, repeat: int) -> Sequence[Step]:
    train = ["fit", f"--data.data={data}", f"--data.size={SIZE}", f"--data.batch={BATCH}"]
    train += ["--data.workers=2", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    start = {"arguments": train, "batch": BATCH}
    return [
        Step("command_line", start, key="first_command_s"),
        Step("command_line", start, key="first_batch_s"),
        Step("command_line", {"arguments": ["fit", "--help"], "batch": 0}, key="help_s"),
    ]


def _script_start(data: Path, repeat: int) -> Sequence[Step]:
    start = {"data": str(data), "size": SIZE, "batch": BATCH, "workers": 2}
    return [
        Step("first_batch", start, key="first_command_s"),
        Step("first_batch", start, key="first_batch_s"),
    ]


def _tracking(data: Path, repeat: int) -> Sequence[Step]:
    store = "sqlite:///mlflow.db"  # in the working directory of the process
    return [Step("tracking", {"store": store, "epochs": TRACKED_EPOCHS})]


def _tuning(**more: Any) -> Callable[[Path, int], Sequence[Step]]:
    def steps(data: Path, repeat: int) -> Sequence[Step]:
        values = {
            "data": str(data),
            "size": TUNING_SIZE,
            "epochs": TUNING_EPOCHS,
            "trials": TUNING_TRIALS,
            "target": TUNING_TARGET,
            "seed": repeat,
        }
        return [Step("tuning", values | more)]

    return steps


NO_COMMAND = {"help_s": "no command in its package"}
ROWS: dict[str, Row] = {
    "epoch": Row(
        f"an epoch of resnet18 from class folders at {SIZE} px, batch {BATCH}: training and "
        "validation; index and caches in the first",
        (
            Metric("first_s", "first epoch, s", target=1.5),
            Metric("later_s", "later epochs, s", target=2.0),
            Metric("images_per_s", "images/s", higher_is_better=True),
            MEMORY,
        ),
        {
            OURS: Participant("", "ours.py", _epoch()),
            "eyevsai, float32": Participant(
                "", "ours.py", _epoch(precision="float32"), needs_bfloat16=True
            ),
            "timm": Participant("timm", "timm_peer.py", _epoch(workers=2)),
            "timm, bfloat16": Participant(
                "timm", "timm_peer.py", _epoch(workers=2, fast=True), needs_bfloat16=True
            ),
            "fastai": Participant("fastai", "fastai_peer.py", _epoch(workers=2)),
            "Ultralytics": Participant("ultralytics", "ultralytics_peer.py", _epoch(workers=2)),
            "Lightning": Participant("lightning", "lightning_peer.py", _epoch(workers=2)),
            "Lightning, bfloat16": Participant(
                "lightning", "lightning_peer.py", _epoch(workers=2, fast=True), needs_bfloat16=True
            ),
        },
        lambda folder: write_split("pets", folder),
        derive=summarize_epochs,
    ),
    "features": Row(
        f"HOG, LBP and colour histograms at {SIZE} px, two processes",
        (
            Metric("images_per_s", "images/s, decoded before", higher_is_better=True, target=8.0),
            Metric("files_s", "from files, s"),
            MEMORY,
        ),
        {
            OURS: Participant(
                "", "ours.py", lambda data, repeat: [Step("features", {"data": str(data)})]
            ),
            "scikit-image": Participant(
                "skimage",
                "skimage_peer.py",
                lambda data, repeat: [
                    Step("features", {"data": str(data), "size": SIZE, "workers": CORES})
                ],
            ),
        },
        lambda folder: write_classes("street_foods", folder),
    ),
    "export": Row(
        f"export of resnet18 at {SIZE} px to ONNX, and prediction of {IMAGES:,} image files",
        (
            Metric("total_s", "both, s", target=1.5),
            Metric("export_s", "export, s"),
            Metric("predict_s", "prediction, s"),
            Metric("images_per_s", "images/s", higher_is_better=True),
            MEMORY,
        ),
        {
            OURS: Participant("", "ours.py", _export()),
            "timm": Participant("timm", "timm_peer.py", _export(workers=2)),
            "Ultralytics": Participant("ultralytics", "ultralytics_peer.py", _export(workers=2)),
            "Lightning": Participant("lightning", "lightning_peer.py", _export(workers=2)),
        },
        lambda folder: write_classes("street_foods", folder, IMAGES),
        absent={"fastai": "no export to ONNX"},
        derive=lambda values, images: (
            {
                "total_s": values["export_s"] + values["predict_s"],
                "images_per_s": images / values["predict_s"],
            }
            if "export_s" in values
            else {}
        ),
    ),
    "startup": Row(
        "start of a command until the first batch reaches the network, and of help",
        (
            Metric("first_command_s", "first command, s"),
            Metric("first_batch_s", "later commands, s", target=1.0),
            Metric("help_s", "help, s", target=1.0),
            MEMORY,
        ),
        {
            OURS: Participant("", "ours.py", _our_start),
            "timm": Participant("timm", "timm_peer.py", _script_start, NO_COMMAND),
            "fastai": Participant("fastai", "fastai_peer.py", _script_start, NO_COMMAND),
            "Ultralytics": Participant("ultralytics", "ultralytics_peer.py", _ultralytics_start),
            "Lightning": Participant("lightning", "lightning_peer.py", _lightning_start),
        },
        lambda folder: write_split("pets", folder),
    ),
    "tracking": Row(
        f"cost of tracking per epoch in SQLite, trainings of {TRACKED_EPOCHS} epochs, "
        "all writes included",
        (Metric("epoch_ms", "per epoch, ms", target=1.0), WALL, MEMORY),
        {
            OURS: Participant("", "ours.py", _tracking),
            "MLflow autolog": Participant("autolog", "autolog_peer.py", _tracking),
        },
        lambda folder: 0,
        absent={
            "timm": "tracks in files and W&B only",
            "fastai": "tracks in files and W&B only",
        },
    ),
    "tuning": Row(
        f"tuning of deep_v1's network at {TUNING_SIZE} px until a trial of {TUNING_EPOCHS} epochs "
        f"reaches {TUNING_TARGET:.0%} on the valid split; seeds 0 to 2",
        (
            Metric("wall_s", "whole process, s", target=2.0),
            Metric("trials", "trials"),
            MEMORY,
        ),
        {
            OURS: Participant("", "ours.py", _tuning()),
            "Optuna": Participant("optuna", "optuna_peer.py", _tuning(workers=2)),
        },
        lambda folder: write_split("vegetables", folder),
        timeout_s=400,
    ),
}
