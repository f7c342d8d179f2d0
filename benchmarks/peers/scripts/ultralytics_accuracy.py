"""Training by time with Ultralytics.

On a CPU it uses one thread fewer than the machine has cores; all are set, which is faster here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from time_budget import TimeBudget  # type: ignore[import-not-found]

TAIL = 0.05  # of a training's time, for the validations after it, until they have been measured
MIN_S = 1.0  # passed as the time of a training that has none left, because it divides by epochs


def accuracy(data: str, size: int, *, minutes: float, seed: int) -> dict[str, float]:
    """Train yolo11n-cls from scratch for a number of minutes; return the accuracy on test images.

    The settings are the defaults of `train`, which has an argument for the time. It counts from the
    first epoch, and the validations of the last epoch and of the best weights come after it: what
    is passed leaves time for them. The weights of the best epoch are kept.

    Args:
        data: folder with `train`, `val` and `test`.
        size: image size in pixels.
        minutes: time of the training, from the start of the process.
        seed: seed of the weights and of the batches.
    """
    import torch
    from ultralytics import YOLO

    budget = TimeBudget(minutes)
    clock = {"start": 0.0, "valid": 0.0}  # seconds left then, and of the last validation
    epochs = 0

    def start(trainer: Any) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        clock["start"] = budget.left_s
        trainer.args.time = max(MIN_S, (1 - TAIL) * clock["start"]) / 3600

    def start_validation(trainer: Any) -> None:
        clock["valid"] = budget.used_s

    def end_epoch(trainer: Any) -> None:
        nonlocal epochs
        epochs = trainer.epoch + 1
        valid_s = budget.used_s - clock["valid"]
        trainer.args.time = max(MIN_S, clock["start"] - 2 * valid_s - 1) / 3600

    model = YOLO("yolo11n-cls.yaml")
    model.add_callback("on_train_start", start)
    model.add_callback("on_train_epoch_end", start_validation)
    model.add_callback("on_fit_epoch_end", end_epoch)
    settings = {"data": data, "imgsz": size, "device": "cpu", "plots": False, "verbose": False}
    model.train(**settings, time=minutes / 60, seed=seed, project=str(Path.cwd()))
    train_s = budget.used_s
    share = float(model.val(**settings, split="test").top1)
    return {"accuracy": share, "train_s": train_s, "epochs": epochs}


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)
