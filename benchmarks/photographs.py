"""Photographs that several benchmarks use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eyevsai.data.dataset import Dataset

PHOTOS = Path(os.environ.get("EYEVSAI_DATA", "../shared/photos"))


def are_missing() -> bool:
    """Return True, and print a note, if the folder of the photographs is missing."""
    if not PHOTOS.is_dir():
        print(f"skipped: {PHOTOS} is missing. Set EYEVSAI_DATA to the folder of the photographs.")
    return not PHOTOS.is_dir()


def load_union() -> Dataset:
    """Load the 60-class union, with the same cache of pixels as runs."""
    from eyevsai.data.dataset import load_dataset
    from eyevsai.data.settings import DataSettings

    cache = os.environ.get("EYEVSAI_CACHE", "~/.cache/eyevsai")
    return load_dataset(DataSettings(dataset="combined_all", data_dir=str(PHOTOS), cache_dir=cache))
