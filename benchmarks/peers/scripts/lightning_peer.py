"""Tasks with Lightning and torchvision: a LightningModule and a LightningDataModule."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, models
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photographs(pl.LightningDataModule):
    """Class folders `train` and `val`."""

    def __init__(self, data: str, size: int = 128, batch: int = 64, workers: int = 2) -> None:
        super().__init__()
        self.data, self.size, self.batch, self.workers = data, size, batch, workers

    def setup(self, stage: str | None = None) -> None:
        end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        augmented = [
            v2.RandomResizedCrop(self.size, scale=(0.5, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.3, 0.3, 0.3),
        ]
        plain = [v2.Resize(round(1.15 * self.size)), v2.CenterCrop(self.size)]
        self.train = datasets.ImageFolder(f"{self.data}/train", v2.Compose([*augmented, *end]))
        self.valid = datasets.ImageFolder(f"{self.data}/val", v2.Compose([*plain, *end]))

    def _loader(self, images: Any, *, shuffle: bool) -> Any:
        return DataLoader(
            images,
            self.batch,
            shuffle=shuffle,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def train_dataloader(self) -> Any:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.valid, shuffle=False)


class Classifier(pl.LightningModule):
    """torchvision's resnet18."""

    def __init__(self, classes: int = 1000, fast: bool = False) -> None:
        super().__init__()
        self.network = models.resnet18(weights=None, num_classes=classes)
        self.fast = fast
        if fast:
            self.network = self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Any) -> Any:
        if self.fast:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def training_step(self, batch: Any, number: int) -> Any:
        images, targets = batch
        loss = torch.nn.functional.cross_entropy(self(images), targets, label_smoothing=0.1)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        images, targets = batch
        logits = self(images)
        self.log("valid_loss", torch.nn.functional.cross_entropy(logits, targets))
        self.log("valid_accuracy", (logits.argmax(1) == targets).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.02)


class Clock(pl.Callback):
    """Times of the ends of epochs."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.times.append(time.perf_counter())


def epoch(
    data: str, size: int, batch: int, *, epochs: int, workers: int, fast: bool = False
) -> dict[str, float]:
    """Train resnet18; return the seconds of each epoch. `fast` is bf16-mixed and channels_last."""
    start = time.perf_counter()
    photographs = Photographs(data, size, batch, workers)
    photographs.setup()
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision="bf16-mixed" if fast else "32-true",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        callbacks=[clock],
    )
    trainer.fit(Classifier(len(photographs.train.classes), fast), datamodule=photographs)
    ends = [start, *clock.times]
    return {
        f"epoch_{number}": after - before
        for number, (before, after) in enumerate(zip(ends, ends[1:], strict=False))
    }


def export(data: str, size: int, classes: int, images: int, workers: int) -> dict[str, float]:
    """Export resnet18 by `to_onnx`; predict images with ONNX Runtime through a DataLoader."""
    import onnxruntime

    module = Classifier(classes).eval()
    start = time.perf_counter()
    module.to_onnx(
        "lightning.onnx",
        torch.randn(2, 3, size, size),
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        input_names=["images"],
    )
    exported = time.perf_counter()
    session = onnxruntime.InferenceSession("lightning.onnx", providers=["CPUExecutionProvider"])
    transform = v2.Compose(
        [
            v2.Resize(round(1.15 * size)),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(datasets.ImageFolder(data, transform), 16, num_workers=workers)
    count = 0
    for inputs, _ in loader:
        count += len(session.run(None, {"images": inputs.numpy()})[0].argmax(1))
        if count >= images:
            break
    return {"export_s": exported - start, "predict_s": time.perf_counter() - exported}


def command_line(arguments: list[str], batch: int) -> dict[str, float]:
    """Run Lightning's command line for the classes above; end at the first batch."""
    from pytorch_lightning.cli import LightningCLI

    _exit_at_first_batch(batch)
    LightningCLI(Classifier, Photographs, args=arguments)
    return {}


def _exit_at_first_batch(batch: int) -> None:
    import os

    from torch.nn.modules.module import register_module_forward_pre_hook

    def check(module: Any, inputs: Any) -> None:
        if module.training and inputs and getattr(inputs[0], "shape", (0,))[0] == batch:
            print(json.dumps({"values": {}}), flush=True)
            os._exit(0)

    register_module_forward_pre_hook(check)


if __name__ == "__main__":
    try:
        values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    except SystemExit:  # the end of --help
        values = {}
    print(json.dumps({"values": values}), flush=True)
