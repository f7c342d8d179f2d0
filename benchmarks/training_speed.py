"""Training speed of deep_v1 at 128 px, compared with two simple training loops.

bare:   the same network, optimizer and precision on one batch in memory, without reading,
        augmentation and bookkeeping. Limit: eyevsai reaches at least 90 % of it.
stock:  float32, NCHW, torchvision's ImageFolder, transforms and DataLoader with two workers.
        Limit: eyevsai is at least 2.5 x as fast on a CPU with AVX512-BF16.

Requires photographs: EYEVSAI_DATA, `../shared/photos` by default. Each loop runs in a separate
process, alternately; the median of the rounds is reported.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.photographs import PHOTOS, are_missing, load_union

ROUNDS, BATCH, SIZE, SECONDS = 3, 64, 128, 12.0


def _learner(classes: tuple[str, ...]):  # type: ignore[no-untyped-def]
    from eyevsai.models.deep_v1.network import DeepV1Learner
    from eyevsai.models.deep_v1.settings import DeepV1Settings

    # images of the full size in both epochs, and each weight trained, as in the other loops
    settings = DeepV1Settings(
        image_size=SIZE, batch_size=BATCH, epochs=2, initial_scale=1.0, whitening=False
    )
    return DeepV1Learner("standard", settings, classes, 0)


def ours() -> float:
    """Return images per second of the train pass of the second epoch, as a run logs it.

    The first epoch is a warm-up.
    """
    dataset = load_union()
    learner = _learner(dataset.classes)
    data = dataset.open(learner.preprocessing)
    rows: list[dict[str, float]] = []
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(row))
    return rows[1]["images_per_s"]


def bare() -> float:
    """Return images per second of the same training step on one batch in memory."""
    import torch

    from eyevsai.training.device import find_precision, setup_device
    from eyevsai.training.optimizer import build_optimizer

    learner = _learner(load_union().classes)
    settings, network = learner.settings, learner.network.to(memory_format=torch.channels_last)
    precision = find_precision("auto", setup_device(settings))
    optimizer = build_optimizer([network], settings)
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, len(learner.classes), (BATCH,))
    network.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_grad)
        optimizer.step()

    for _ in range(10):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        step()
        steps += 1
    return steps * BATCH / (time.perf_counter() - start)


def stock() -> float:
    """Return images per second of a tutorial's loop over the same photographs."""
    import torch
    from torchvision import datasets
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.3, 0.3, 0.3),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    sets = [
        datasets.ImageFolder(str(folder), transform)
        for folder in sorted(PHOTOS.iterdir())
        if folder.is_dir()
    ]
    union: torch.utils.data.Dataset[object] = torch.utils.data.ConcatDataset(sets)
    network = _learner(tuple(map(str, range(60)))).network
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    network.train()
    images_seen, start = 0, 0.0
    for number, (images, labels) in enumerate(
        torch.utils.data.DataLoader(union, BATCH, shuffle=True, num_workers=2)
    ):
        if number == 3:  # the workers have started, and the caches are warm
            start = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels, label_smoothing=0.1).backward()
        optimizer.step()
        if number >= 3:
            images_seen += len(images)
            if time.perf_counter() - start > SECONDS:
                break
    return images_seen / (time.perf_counter() - start)


def main() -> None:
    if are_missing():
        return
    loops = {"ours": ours, "bare": bare, "stock": stock}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name in loops:
            code = f"from benchmarks.training_speed import {name}; print({name}())"
            process = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            rates[name].append(float(process.stdout.split()[-1]))
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(
            f"{name:<6} {median[name]:7.1f} images/s   "
            f"({', '.join(f'{value:.1f}' for value in values)})"
        )
    print(f"ours / bare   {median['ours'] / median['bare']:.2f}   (limit 0.90)")
    print(f"ours / stock  {median['ours'] / median['stock']:.2f}   (limit 2.5 with AVX512-BF16)")
