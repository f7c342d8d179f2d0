"""The photographs that benchmarks share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eyevsai.data.dataset import Dataset

PHOTOS = Path(os.environ.get("EYEVSAI_DATA", "../shared/photos"))


def are_missing() -> bool:
    """Whether there are none; then it is said."""
    if not PHOTOS.is_dir():
        print(f"skipped: no photographs at {PHOTOS}; set EYEVSAI_DATA")
    return not PHOTOS.is_dir()


def load_union() -> Dataset:
    """The 60-class union, its pixels cached where runs cache theirs."""
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.settings import DataSettings

    cache = os.environ.get("EYEVSAI_CACHE", "~/.cache/eyevsai")
    return load_dataset(DataSettings(dataset="combined_all", data_dir=str(PHOTOS), cache_dir=cache))
