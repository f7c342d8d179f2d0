"""Tasks with Ultralytics: its trainer, exporter and command line for classification.

On a CPU it uses one thread fewer than the machine has cores; the tasks set all of them, which is
faster here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TRAINING: dict[str, Any] = {
    "device": "cpu",
    "pretrained": False,
    "optimizer": "AdamW",
    "lr0": 1e-3,
    "nbs": 64,
    "scale": 0.5,
    "hsv_h": 0.0,
    "hsv_s": 0.3,
    "hsv_v": 0.3,
    "auto_augment": "",
    "erasing": 0.0,
    "plots": False,
    "save": False,
    "verbose": False,
}

# as in its own file yolo11-cls-resnet18.yaml, but without pretrained weights
RESNET18 = """
nc: 1000
backbone:
  - [-1, 1, TorchVision, [512, resnet18, null, True, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""


def epoch(data: str, size: int, batch: int, epochs: int, workers: int) -> dict[str, float]:
    """Train torchvision's resnet18 with Ultralytics' head; return the seconds of each epoch."""
    import torch
    from ultralytics.models.yolo.classify import ClassificationTrainer

    Path("resnet18.yaml").write_text(RESNET18, encoding="utf-8")
    start, ends = time.perf_counter(), list[float]()
    trainer = ClassificationTrainer(
        overrides={
            **TRAINING,
            "model": "resnet18.yaml",
            "data": data,
            "imgsz": size,
            "batch": batch,
            "epochs": epochs,
            "workers": workers,
            "project": str(Path.cwd()),
        }
    )
    trainer.add_callback("on_train_start", lambda _: torch.set_num_threads(os.cpu_count() or 1))
    trainer.add_callback("on_fit_epoch_end", lambda _: ends.append(time.perf_counter()))
    trainer.train()
    ends = [start, *ends[:epochs]]
    return {
        f"epoch_{number}": after - before
        for number, (before, after) in enumerate(zip(ends, ends[1:], strict=False))
    }


def export(data: str, size: int, classes: int, images: int, workers: int) -> dict[str, float]:
    """Export torchvision's resnet18 with `torch2onnx`; predict files with `YOLO` and the file."""
    import torch
    from torchvision.models import resnet18
    from ultralytics import YOLO
    from ultralytics.utils.export import torch2onnx

    torch.set_num_threads(os.cpu_count() or 1)
    network = resnet18(weights=None, num_classes=classes).eval()
    start = time.perf_counter()
    axes = {"images": {0: "batch"}, "output0": {0: "batch"}}
    torch2onnx(network, torch.randn(1, 3, size, size), "ultralytics.onnx", dynamic=axes)
    exported = time.perf_counter()
    model = YOLO("ultralytics.onnx", task="classify")
    arguments = {"imgsz": size, "batch": 16, "device": "cpu", "stream": True, "verbose": False}
    count = sum(1 for _ in model.predict(f"{data}/*/*.jpg", **arguments))
    if count != images:
        raise SystemExit(f"predicted {count} of {images} images")
    return {"export_s": exported - start, "predict_s": time.perf_counter() - exported}


def command_line(arguments: list[str], batch: int) -> dict[str, float]:
    """Run the command `yolo`; end at the first batch of a training."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    sys.argv = ["yolo", *arguments]  # which `ultralytics` reads when it is imported
    from ultralytics.cfg import entrypoint

    def check(module: Any, inputs: Any) -> None:
        first = inputs[0] if inputs else None
        images = first["img"] if isinstance(first, dict) else first
        if module.training and getattr(images, "shape", (0,))[0] == batch:
            print(json.dumps({"values": {}}), flush=True)
            os._exit(0)

    register_module_forward_pre_hook(check)
    entrypoint()
    return {}


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)
