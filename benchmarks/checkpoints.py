"""Overhead of checkpoints: share of an epoch of deep_v1 with defaults on the 60-class union.

Checkpoints are flushed to the disk of the current folder. Median over the epochs after the first
one. Limit: 3 %.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.photographs import are_missing, load_union

ROUNDS, EVERY_S = 3, 300.0


def main() -> None:
    if are_missing():
        return
    from eyevsai.models.deep_v1.network import DeepV1Learner
    from eyevsai.models.deep_v1.settings import DeepV1Settings
    from eyevsai.training.checkpoint import Checkpoints

    dataset = load_union()
    learner = DeepV1Learner("standard", DeepV1Settings(epochs=2 * ROUNDS + 1), dataset.classes, 0)
    data = dataset.open(learner.preprocessing)
    saves: list[float] = []

    class Timed(Checkpoints):
        """Checkpoints that record the seconds of each save, including the flush to disk."""

        def save(self, tensors, state):  # type: ignore[no-untyped-def]
            start = time.perf_counter()
            super().save(tensors, state)
            saves.append(time.perf_counter() - start)

    ends: list[float] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        learner.fit(
            data.train,
            data.valid,
            lambda epoch, row: ends.append(time.perf_counter()),
            Timed(Path(folder), EVERY_S),
        )
        size = max(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    epochs = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    epoch, save = statistics.median(epochs), statistics.median(saves[1:])
    print(
        f"an epoch takes {epoch:.2f} s, of which its checkpoint of {size / 1e6:.1f} MB takes "
        f"{1000 * save:.0f} ms"
    )
    print(f"share of an epoch  {save / epoch:.2%}   (limit 3 %)")
