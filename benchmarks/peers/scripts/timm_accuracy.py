"""Training by time with timm.

timm's train script is not part of its package: the package's functions are called in the order of
that script (model, loader, optimizer, averaged weights, scheduler, loss), with its defaults.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from typing import Any

from time_budget import Probe, TimeBudget, epochs_that_fit  # type: ignore[import-not-found]

# Arguments of the train script in timm's documentation (rates are per image of a batch): for an
# SE-ResNet34 (training_script), with the weight decay of its author's recipe for a ResNet34 on one
# device (issue 11) ...
SCRATCH: dict[str, Any] = {
    "model": {"model_name": "resnet18"},
    "optimizer": {"opt": "sgd", "lr": 0.1 / 256, "momentum": 0.9, "weight_decay": 1e-4},
    "warm_up": 5 / 150,  # of the epochs
    "loader": {"re_prob": 0.5, "re_mode": "pixel", "color_jitter": 0.4},
}
# ... and for EfficientNets (training_hparam_examples), but with AdamW: with RMSprop at a tenth of
# the rate, as its author recommends for a new classifier (issue 25), a few minutes are too short.
# Test accuracy after 60 updates at 128 px, on 600 photographs: RMSprop 0.05, AdamW 0.73.
PRETRAINED: dict[str, Any] = {
    "model": {"model_name": "tf_efficientnet_lite0", "pretrained": True, "drop_rate": 0.2},
    "optimizer": {"opt": "adamw", "lr": 1e-3 / 64, "weight_decay": 0.05},
    "warm_up": 5 / 150,
    "loader": {"re_prob": 0.2, "re_mode": "pixel", "auto_augment": "rand-m9-mstd0.5"},
}
EMA_DECAY = 0.9999


def accuracy(
    data: str,
    size: int,
    batch: int,
    *,
    minutes: float,
    weights: str,
    seed: int,
    workers: int,
    fast: bool,
) -> dict[str, float]:
    """Train for a number of minutes; return the accuracy on the test images.

    The averaged weights (EMA) with the best accuracy on the valid images are kept.

    Args:
        data: folder with `train`, `val` and `test`.
        size: image size in pixels.
        batch: batch size.
        minutes: time of the training, from the start of the process.
        weights: weights file of tf_efficientnet_lite0; empty: a resnet18 from scratch.
        seed: seed of the new weights and of the batches.
        workers: number of processes that decode images.
        fast: --amp --amp-dtype bfloat16 --channels-last.
    """
    from timm.utils import random_seed

    budget = TimeBudget(minutes)
    random_seed(seed)
    recipe = PRETRAINED if weights else SCRATCH
    network, loaders = _build(recipe, data, size, batch, workers=workers, weights=weights)
    stepper = _Stepper(network, recipe, batch, fast=fast)
    num_train, num_valid = (len(loaders[split].dataset) for split in ("train", "val"))
    images = _endless(loaders["train"])
    image_s = _measure_image_s(copy.deepcopy(stepper), images, budget, batch)

    plan = epochs_that_fit(budget.left_s, image_s, num_train, num_valid)
    epochs = max(1, round(plan))
    updates = max(1, int(plan * num_train / batch / epochs))  # per epoch, so that all time is used
    stepper.schedule(epochs, updates)
    averaged = stepper.ema.module
    best, best_weights, stopped = -1.0, None, False
    for _ in range(epochs):
        for _ in range(updates):
            stepper.step(*next(images))
            stopped = budget.left_s < image_s * num_valid
            if stopped:
                break
        score = _score(averaged, loaders["val"], fast=fast)
        if score > best:
            best, best_weights = score, copy.deepcopy(averaged.state_dict())
        if stopped:
            break
    averaged.load_state_dict(best_weights)
    train_s = budget.used_s
    share = _score(averaged, loaders["test"], fast=fast)
    return {"accuracy": share, "train_s": train_s, "epochs": plan, "stopped": float(stopped)}


def _build(
    recipe: dict[str, Any], data: str, size: int, batch: int, *, workers: int, weights: str
) -> tuple[Any, dict[str, Any]]:
    """Return the network of a recipe, and the loaders of `train`, `val` and `test`."""
    import torch
    from timm import create_model
    from timm.data import create_dataset, create_loader, resolve_data_config

    datasets = {
        split: create_dataset("", root=data, split=split, is_training=split == "train")
        for split in ("train", "val", "test")
    }
    overlay: dict[str, Any] = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    classes = len(datasets["train"].reader.class_to_idx)
    network = create_model(**recipe["model"], num_classes=classes, **overlay)
    config = resolve_data_config({"img_size": size}, model=network)
    loaders = {
        split: create_loader(
            dataset,
            batch_size=batch,
            is_training=split == "train",
            num_workers=workers,
            device=torch.device("cpu"),
            pin_memory=False,
            **config,
            **(recipe["loader"] if split == "train" else {}),
        )
        for split, dataset in datasets.items()
    }
    return network, loaders


class _Stepper:
    """Network in training: its optimizer, loss, learning rate and averaged weights."""

    def __init__(self, network: Any, recipe: dict[str, Any], batch: int, *, fast: bool) -> None:
        import torch
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        if fast:
            network.to(memory_format=torch.channels_last)
        rate = {"lr": recipe["optimizer"]["lr"] * batch}
        self.network, self.recipe, self.fast, self.count = network, recipe, fast, 0
        self.optimizer = create_optimizer_v2(network, **(recipe["optimizer"] | rate))
        self.loss = LabelSmoothingCrossEntropy(0.1)
        self.ema = ModelEmaV3(network, decay=EMA_DECAY, use_warmup=True)
        self.scheduler: Any = None

    def schedule(self, epochs: int, updates: int) -> None:
        """Set a cosine schedule with a warm-up, by updates."""
        from timm.scheduler import create_scheduler_v2

        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="cosine",
            num_epochs=epochs,
            warmup_epochs=self.recipe["warm_up"] * epochs,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )

    def step(self, images: Any, targets: Any) -> None:
        """Train on a batch."""
        self.network.train()
        loss = self.loss(_forward(self.network, images, fast=self.fast), targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.count += 1
        self.ema.update(self.network, step=self.count)
        if self.scheduler is not None:
            self.scheduler.step_update(self.count)


def _forward(network: Any, images: Any, *, fast: bool) -> Any:
    import torch

    if not fast:
        return network(images)
    with torch.autocast("cpu", torch.bfloat16):
        return network(images.contiguous(memory_format=torch.channels_last)).float()


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _measure_image_s(
    stepper: _Stepper, images: Iterator[Any], budget: TimeBudget, batch: int
) -> float:
    """Return the seconds per training image; the stepper's weights change."""
    probe = Probe(budget)
    while True:
        stepper.step(*next(images))
        if probe.add_batch():
            return float(probe.batch_s) / batch


def _score(network: Any, loader: Any, *, fast: bool) -> float:
    """Return the accuracy on the images of a loader."""
    import torch

    network.eval()
    correct = count = 0
    with torch.inference_mode():
        for images, targets in loader:
            correct += int((_forward(network, images, fast=fast).argmax(1) == targets).sum())
            count += len(targets)
    return correct / count


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)
