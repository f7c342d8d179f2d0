"""Frozen features: the 60-class union, `efficientnet_lite0`, defaults.

An epoch of the head after the first (limit: 1 s), its checkpoint beside the size of the network,
and how many images the base describes in a second, a few at a time and many.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.photographs import are_missing, load_union

EPOCHS, ROUNDS, IMAGES = 9, 3, 128


def main() -> None:
    if are_missing():
        return
    import torch

    from eyevsai.models.factory import build
    from eyevsai.models.transfer.settings import TransferSettings
    from eyevsai.training.checkpoint import Checkpoints

    dataset = load_union()
    settings = TransferSettings(freeze_epochs=EPOCHS, fine_tune_epochs=0)
    learner = build("transfer", "efficientnet_lite0", settings, dataset.classes, 0)
    learner.prepare(dataset.labels_of("train"))
    data, ends = dataset.open(learner.preprocessing), [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        learner.fit(
            data.train, data.valid, lambda epoch, row: ends.append(time.perf_counter()), checkpoints
        )
        size = max(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    first, *others = [after - before for before, after in pairwise(ends)]
    whole = sum(tensor.nbytes for tensor in learner.tensors().values())
    print(
        f"features and first epoch {first:.1f} s   epochs after it "
        f"{statistics.median(others):.2f} s ({min(others):.2f} to {max(others):.2f}; limit 1)"
    )
    print(f"a checkpoint of the frozen phase {size / 1e6:.1f} MB; the network {whole / 1e6:.1f} MB")
    network = learner.network  # type: ignore[attr-defined]
    images = torch.randn(IMAGES, 3, settings.image_size, settings.image_size).contiguous(
        memory_format=torch.channels_last
    )
    rates: dict[int, list[float]] = {8: [], 32: [], IMAGES: []}
    for _ in range(ROUNDS):
        for at_once, measured in rates.items():
            began = time.perf_counter()
            with torch.inference_mode():
                for part in images.split(at_once):
                    network.describe(part)
            measured.append(IMAGES / (time.perf_counter() - began))
    said = ", ".join(
        f"{at_once} at a time {statistics.median(measured):.0f}"
        for at_once, measured in rates.items()
    )
    print(f"images/s of the base: {said}")
