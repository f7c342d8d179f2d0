"""Tuning with Optuna and the training loop of PyTorch's tutorials.

The network is that of eyevsai's deep_v1, and the search space that of its settings, as far as a
plain loop has them. Optuna's defaults select the trials (TPE) and prune them (median).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import optuna
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(width: int, dropout: float, classes: int) -> nn.Module:
    """Return four blocks of convolution, batch normalisation, ReLU and pooling, and a head."""
    widths = [3] + [width << number for number in range(4)]
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], 256),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(256, classes),
    )


def _load(data: str, size: int, crop_scale: float, batch: int, workers: int) -> tuple[Any, Any]:
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    augmented = [
        v2.RandomResizedCrop(size, scale=(crop_scale, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.3, 0.3, 0.3),
    ]
    plain = [v2.Resize(round(1.15 * size)), v2.CenterCrop(size)]
    train = datasets.ImageFolder(f"{data}/train", v2.Compose([*augmented, *end]))
    valid = datasets.ImageFolder(f"{data}/val", v2.Compose([*plain, *end]))
    shared: dict[str, Any] = {"num_workers": workers, "persistent_workers": True}
    return DataLoader(train, batch, shuffle=True, **shared), DataLoader(valid, 128, **shared)


def _accuracy(network: nn.Module, loader: Any) -> float:
    network.eval()
    correct = 0
    with torch.inference_mode():
        for images, targets in loader:
            correct += int((network(images).argmax(1) == targets).sum())
    return correct / len(loader.dataset)


def tuning(
    data: str, size: int, *, epochs: int, workers: int, trials: int, target: float, seed: int
) -> dict[str, float]:
    """Return the seconds until a trial reaches the target accuracy on the valid split."""
    start = time.perf_counter()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(seed * 1000 + trial.number)
        lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        decay = trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
        batch = trial.suggest_categorical("batch_size", [32, 64, 128])
        width = trial.suggest_categorical("width", [16, 32, 48])
        dropout = trial.suggest_float("dropout", 0.0, 0.5)
        smoothing = trial.suggest_float("label_smoothing", 0.0, 0.2)
        crop_scale = trial.suggest_float("crop_scale", 0.3, 1.0)
        name = trial.suggest_categorical("optimizer", ["adamw", "adam", "sgd"])
        train, valid = _load(data, size, crop_scale, batch, workers)
        network = build(width, dropout, len(train.dataset.classes))
        weights = network.parameters()
        optimizer: torch.optim.Optimizer
        if name == "sgd":
            optimizer = torch.optim.SGD(
                weights, lr, momentum=0.9, nesterov=True, weight_decay=decay
            )
        else:
            kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
            optimizer = kind(weights, lr, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, epochs=epochs, steps_per_epoch=len(train)
        )
        best = 0.0
        for epoch in range(epochs):
            network.train()
            for images, targets in train:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(
                    network(images), targets, label_smoothing=smoothing
                )
                loss.backward()
                optimizer.step()
                schedule.step()
            accuracy = _accuracy(network, valid)
            best = max(best, accuracy)
            trial.report(accuracy, epoch)
            if best < target and trial.should_prune():
                raise optuna.TrialPruned
        return best

    def stop(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.value is not None and trial.value >= target:
            study.stop()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials, callbacks=[stop])
    seconds = time.perf_counter() - start
    if study.best_value < target:
        raise SystemExit(f"the best of {trials} trials is {study.best_value:.4f}, below {target}")
    return {"target_s": seconds, "trials": len(study.trials), "accuracy": study.best_value}


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)
