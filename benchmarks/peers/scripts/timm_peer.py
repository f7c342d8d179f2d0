"""Tasks with timm.

timm's train script is not part of its package: `epoch` calls the package's functions in the order
of that script (loader, model, optimizer, scheduler, loss), with its defaults.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def epoch(
    data: str, size: int, batch: int, *, epochs: int, workers: int, fast: bool = False
) -> dict[str, float]:
    """Train resnet18; return the seconds of each epoch. `fast` is --amp --channels-last."""
    import torch
    from timm import create_model
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    start = time.perf_counter()
    device = torch.device("cpu")
    train, valid = (
        create_dataset("", root=data, split=split, is_training=split == "train", batch_size=batch)
        for split in ("train", "val")
    )
    shared: dict[str, Any] = {
        "input_size": (3, size, size),
        "batch_size": batch,
        "interpolation": "bilinear",
        "num_workers": workers,
        "device": device,
        "pin_memory": False,
    }
    loader = create_loader(
        train,
        is_training=True,
        scale=(0.5, 1.0),
        hflip=0.5,
        color_jitter=0.3,
        auto_augment=None,
        re_prob=0.0,
        **shared,
    )
    valid_loader = create_loader(valid, is_training=False, **shared)
    network = create_model("resnet18", pretrained=False, num_classes=len(train.reader.class_to_idx))
    if fast:
        network = network.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.02)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    loss_fn, valid_loss_fn = LabelSmoothingCrossEntropy(0.1), torch.nn.CrossEntropyLoss()

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()

    ends = [start]
    for number in range(epochs):
        network.train()
        for images, targets in loader:
            inputs = images.contiguous(memory_format=torch.channels_last) if fast else images
            with autocast():
                loss = loss_fn(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            for images, targets in valid_loader:
                inputs = images.contiguous(memory_format=torch.channels_last) if fast else images
                with autocast():
                    valid_loss_fn(network(inputs), targets).item()
        scheduler.step(number + 1)
        ends.append(time.perf_counter())
    return {
        f"epoch_{number}": after - before
        for number, (before, after) in enumerate(zip(ends, ends[1:], strict=False))
    }


def export(data: str, size: int, classes: int, images: int, workers: int) -> dict[str, float]:
    """Export resnet18 with timm's exporter; predict images with ONNX Runtime."""
    import onnxruntime
    from timm import create_model
    from timm.data import create_dataset, create_loader
    from timm.utils.onnx import onnx_export

    network = create_model("resnet18", pretrained=False, num_classes=classes, exportable=True)
    network.eval()
    start = time.perf_counter()
    onnx_export(network, "resnet18.onnx", input_size=(3, size, size), batch_size=16, check=True)
    exported = time.perf_counter()
    session = onnxruntime.InferenceSession("resnet18.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    loader = create_loader(
        create_dataset("", root=data),
        input_size=(3, size, size),
        batch_size=16,
        use_prefetcher=False,
        interpolation="bilinear",
        num_workers=workers,
    )
    count = 0
    for inputs, _ in loader:
        count += len(session.run(None, {name: inputs.numpy()})[0].argmax(1))
        if count >= images:
            break
    return {"export_s": exported - start, "predict_s": time.perf_counter() - exported}


def first_batch(data: str, size: int, batch: int, workers: int) -> dict[str, float]:
    """Train until the first batch reaches the network."""
    _exit_at_first_batch(batch)
    return epoch(data, size, batch, epochs=1, workers=workers)


def _exit_at_first_batch(batch: int) -> None:
    import os

    from torch.nn.modules.module import register_module_forward_pre_hook

    def check(module: Any, inputs: Any) -> None:
        if module.training and inputs and getattr(inputs[0], "shape", (0,))[0] == batch:
            print(json.dumps({"values": {}}), flush=True)
            os._exit(0)

    register_module_forward_pre_hook(check)


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)
    Path("resnet18.onnx").unlink(missing_ok=True)
