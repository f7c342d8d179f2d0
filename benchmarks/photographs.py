"""Photographs that several benchmarks use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eyevsai.data.dataset import Dataset

PHOTOS = Path(os.environ.get("EYEVSAI_DATA", "../shared/photos"))
VALID_EVERY = 7  # every seventh image of a class is held out by `write_split`


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


def write_split(dataset: str, folder: Path) -> int:
    """Copy a dataset into `train` and `val` with class folders; return the number of images."""
    count = 0
    for class_dir in sorted(each for each in (PHOTOS / dataset).iterdir() if each.is_dir()):
        for number, source in enumerate(sorted(class_dir.glob("*.jpg"))):
            split = "val" if number % VALID_EVERY == 0 else "train"
            target = folder / split / class_dir.name / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            count += 1
    return count


def write_union(folder: Path) -> int:
    """Copy the 60-class union into `train`, `val` and `test` with class folders.

    The split is that of `eyevsai train --dataset combined_all`. Returns the number of images.
    """
    dataset = load_union()
    folder_of = {"train": "train", "valid": "val", "test": "test"}
    for sample, split in zip(dataset.samples, dataset.split_names, strict=True):
        target = folder / folder_of[split] / sample.label / sample.file.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.file.path, target)
    return len(dataset.samples)


def write_classes(dataset: str, folder: Path, limit: int | None = None) -> int:
    """Copy a dataset's class folders, at most `limit` images; return the number of images."""
    class_dirs = sorted(each for each in (PHOTOS / dataset).iterdir() if each.is_dir())
    files = [path for each in class_dirs for path in sorted(each.glob("*.jpg"))]
    for source in files[:limit]:
        target = folder / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return len(files[:limit])
