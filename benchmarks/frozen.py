"""An epoch on frozen features: the 60-class union, `efficientnet_lite0`, defaults. Limit: 1 s after the first."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

PHOTOS = Path(os.environ.get("EYEVSAI_DATA", "../shared/photos"))
EPOCHS = 9


def main() -> None:
    if not PHOTOS.is_dir():
        print(f"skipped: no photographs at {PHOTOS}; set EYEVSAI_DATA")
        return
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.settings import DataSettings
    from eyevsai.models.learner import build
    from eyevsai.models.transfer.settings import TransferSettings

    cache = os.environ.get("EYEVSAI_CACHE", "~/.cache/eyevsai")
    dataset = load_dataset(DataSettings(dataset="combined_all", data_root=str(PHOTOS), cache_root=cache), 0)
    settings = TransferSettings(freeze_base_epochs=EPOCHS, fine_tune_epochs=0)
    learner = build("transfer", "efficientnet_lite0", settings, dataset.classes, 0)
    learner.prepare(dataset.labels_of("train"))
    data, ends = dataset.open(learner.preprocessing), [time.perf_counter()]
    learner.fit(data.train, data.valid, lambda epoch, row: ends.append(time.perf_counter()))
    first, *others = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    print(f"features and first epoch {first:.1f} s   epochs after it {statistics.median(others):.2f} s "
          f"({min(others):.2f} to {max(others):.2f}; limit 1)")  # fmt: skip
