"""From the files of an unpacked archive to the class folders that a dataset is read from, and a
record of them.
"""

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

RECORD = "dataset.json"  # beside the class folders, where nothing but folders is read
OFFICIAL_SPLITS = {"trainval": "train", "test": "test"}  # lists of Oxford-IIIT Pet


@dataclass(frozen=True)
class PlacedFile:
    """An image of an archive, and where in the dataset it belongs."""

    path: Path
    label: str
    split: str | None


def name_class(folder: str) -> str:
    """What a class is called whose folder an archive has: `kebab (shish kebab)` becomes
    `kebab_shish_kebab`.

    Raises:
        UserError: nothing is left of the name.
    """
    bare = re.sub(r"[][(){}]", " ", unicodedata.normalize("NFC", folder))
    name = "_".join(bare.split()).lstrip(".")
    if not name:
        raise UserError(f"A folder is called {folder!r}, which is no name of a class.")
    return name


def place_by_folder(unpacked: Path) -> Iterator[PlacedFile]:
    """Images by their folders, as training reads them."""
    for file in index_dataset(DatasetFolder(unpacked.name, {unpacked.name: unpacked})).files:
        yield PlacedFile(file.path, name_class(file.label), file.split)


def place_by_name(unpacked: Path, splits: Mapping[str, str] | None) -> Iterator[PlacedFile]:
    """Images by their names, such as `Abyssinian_12.jpg`; where `splits` are given, those that it
    lists by stem.
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
    """The split of each image by its stem, from the lists in the annotations of Oxford-IIIT Pet.

    Raises:
        UserError: a list is missing.
    """
    splits: dict[str, str] = {}
    for file, split in OFFICIAL_SPLITS.items():
        path = next(unpacked.rglob(f"{file}.txt"), None)
        if path is None:
            raise UserError(
                f"The annotations hold no {file}.txt: they are not those of Oxford-IIIT Pet."
            )
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        splits |= {
            line.split()[0]: split for line in lines if line.strip() and not line.startswith("#")
        }
    return splits


def write_class_folders(
    placed: Iterable[PlacedFile], target: Path, *, keep_splits: bool
) -> dict[str, Any]:
    """Moves images into class folders of `target`, below folders of splits if those are kept;
    returns the counts.

    Raises:
        UserError: fewer than two classes.
    """
    classes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for image in list(placed):
        split = image.split if keep_splits else None
        folder = (target / split if split else target) / image.label
        folder.mkdir(parents=True, exist_ok=True)
        image.path.rename(_free_name(folder, image.path))
        classes[image.label] += 1
        if split:
            splits[split] += 1
    if len(classes) < 2:
        raise UserError("There are no folders of images in it, one for each class.")
    return {
        "classes": dict(sorted(classes.items())),
        "splits": dict(splits),
        "images": classes.total(),
    }


def _free_name(folder: Path, path: Path) -> Path:
    """A name that the folder has not yet: images of two splits may be called the same."""
    free, number = folder / path.name, 2
    while free.exists():
        free, number = folder / f"{path.stem}-{number}{path.suffix}", number + 1
    return free


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Leaves a record in a dataset."""
    (folder / RECORD).write_text(
        json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a dataset; None where there is none, or none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (
        record
        if isinstance(record, dict) and {"classes", "splits", "images"} <= record.keys()
        else None
    )
