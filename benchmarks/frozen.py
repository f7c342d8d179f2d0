"""Training on frozen features: `efficientnet_lite0` on the 60-class union, defaults.

Reports the seconds of an epoch of the head after the first one (limit: 1 s), the size of its
checkpoint and of the network, and the images per second of the backbone by batch size.
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
    first, *later = [after - before for before, after in pairwise(ends)]
    network_bytes = sum(tensor.nbytes for tensor in learner.tensors().values())
    print(
        f"features and first epoch {first:.1f} s   later epochs "
        f"{statistics.median(later):.2f} s ({min(later):.2f} to {max(later):.2f}; limit 1)"
    )
    print(
        f"a checkpoint of the frozen phase {size / 1e6:.1f} MB; the network "
        f"{network_bytes / 1e6:.1f} MB"
    )
    network = learner.network  # type: ignore[attr-defined]
    images = torch.randn(IMAGES, 3, settings.image_size, settings.image_size).contiguous(
        memory_format=torch.channels_last
    )
    rates: dict[int, list[float]] = {8: [], 32: [], IMAGES: []}
    for _ in range(ROUNDS):
        for batch_size, measured in rates.items():
            start = time.perf_counter()
            with torch.inference_mode():
                for part in images.split(batch_size):
                    network.extract_features(part)
            measured.append(IMAGES / (time.perf_counter() - start))
    rates_text = ", ".join(
        f"{batch_size} per batch {statistics.median(measured):.0f}"
        for batch_size, measured in rates.items()
    )
    print(f"images/s of the backbone: {rates_text}")
