"""Conversion of an unpacked archive to class folders, and the record of the downloaded dataset."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.files import SUFFIXES
from eyevsai.data.image_folder import index_dataset

# stored next to the class folders; loading a dataset ignores files at this level
RECORD = "dataset.json"
OFFICIAL_SPLITS = {"trainval": "train", "test": "test"}  # list files of Oxford-IIIT Pet


@dataclass(frozen=True)
class PlacedFile:
    """An unpacked image, its class, and its split in the dataset (None without splits)."""

    path: Path
    label: str
    split: str | None


def name_class(folder: str) -> str:
    """Return the class name of an archive's folder, without brackets, spaces and leading dots.

    `kebab (shish kebab)` becomes `kebab_shish_kebab`.

    Raises:
        UserError: the resulting name is empty.
    """
    text = re.sub(r"[][(){}]", " ", unicodedata.normalize("NFC", folder))
    name = "_".join(text.split()).lstrip(".")
    if not name:
        raise UserError(f"The archive's folder {folder!r} cannot be a class name.")
    return name


def place_by_folder(unpacked: Path) -> Iterator[PlacedFile]:
    """Yield the images of class folders, with the class and split that training would read."""
    for file in index_dataset(DatasetFolder(unpacked.name, {unpacked.name: unpacked})).files:
        yield PlacedFile(file.path, name_class(file.label), file.split)


def place_by_name(unpacked: Path, splits: Mapping[str, str] | None) -> Iterator[PlacedFile]:
    """Yield the images whose file name has the form CLASS_NUMBER, such as `Abyssinian_12.jpg`.

    `splits` maps file stems to splits: if not empty, only the images in it are yielded, with their
    splits.
    """
    for path in sorted(unpacked.rglob("*")):
        label, underscore, _ = path.stem.rpartition("_")
        if (
            path.is_file()
            and path.suffix.lower() in SUFFIXES
            and underscore
            and (not splits or path.stem in splits)
        ):
            yield PlacedFile(path, name_class(label), splits[path.stem] if splits else None)


def read_official(unpacked: Path) -> dict[str, str]:
    """Return the split of each image by file stem, read from the annotations of Oxford-IIIT Pet.

    Raises:
        UserError: a list file is missing.
    """
    splits: dict[str, str] = {}
    for file, split in OFFICIAL_SPLITS.items():
        path = next(unpacked.rglob(f"{file}.txt"), None)
        if path is None:
            raise UserError(
                f"{file}.txt is missing: the archive does not contain the Oxford-IIIT Pet lists."
            )
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        splits |= {
            line.split()[0]: split for line in lines if line.strip() and not line.startswith("#")
        }
    return splits


def write_class_folders(
    files: Iterable[PlacedFile], target: Path, *, keep_splits: bool
) -> dict[str, Any]:
    """Move images into class folders and return the image counts.

    Args:
        files: the images; a number is appended to file names that exist already.
        target: folder that receives the class folders.
        keep_splits: put the class folders of images with a split into a folder of that split.

    Returns:
        `classes` and `splits`, the number of images by name, and `images`, their total. `splits`
        is empty if none are kept.

    Raises:
        UserError: fewer than two classes; the images are moved nevertheless.
    """
    classes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for image in list(files):
        split = image.split if keep_splits else None
        folder = (target / split if split else target) / image.label
        folder.mkdir(parents=True, exist_ok=True)
        image.path.rename(_free_name(folder, image.path))
        classes[image.label] += 1
        if split:
            splits[split] += 1
    if len(classes) < 2:
        raise UserError("The archive does not contain at least two class folders with images.")
    return {
        "classes": dict(sorted(classes.items())),
        "splits": dict(splits),
        "images": classes.total(),
    }


def _free_name(folder: Path, path: Path) -> Path:
    """Return an unused path in `folder`; images of different splits may have the same name."""
    candidate, number = folder / path.name, 2
    while candidate.exists():
        candidate, number = folder / f"{path.stem}-{number}{path.suffix}", number + 1
    return candidate


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a downloaded dataset to `dataset.json` in its folder."""
    (folder / RECORD).write_text(
        json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record in a dataset folder; None if it is missing, unreadable or incomplete."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (
        record
        if isinstance(record, dict) and {"classes", "splits", "images"} <= record.keys()
        else None
    )
