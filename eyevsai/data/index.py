"""The images of a dataset: each file once, sorted, with its class and, where given, its split."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eyevsai.data.catalogue import Source
from eyevsai.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
SPLIT_FOLDERS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
MIN_IMAGES = 3  # one for each of train, valid and test


@dataclass(frozen=True)
class Item:
    """One image file. `split` is None where the dataset's layout gives none."""

    path: Path
    name: str  # part/relative path, with forward slashes: stable between machines
    label: str
    split: str | None
    digest: str  # SHA-256 of the file


def index_images(source: Source) -> list[Item]:
    """All images of `source`, sorted by name.

    Raises:
        UserError: no images, fewer than two classes, or a class with fewer than three images.
    """
    found = [entry for part, folder in source.parts.items() for entry in _list_part(part, folder)]
    parts_of_label: dict[str, set[str]] = {}
    for part, label, _, _ in found:
        parts_of_label.setdefault(label, set()).add(part)
    collide = {label for label, parts in parts_of_label.items() if len(parts) > 1}
    items = []
    for part, label, split, path in found:
        if path is not None:
            name = f"{part}/{path.relative_to(source.parts[part]).as_posix()}"
            items.append(Item(path, name, _full(part, label, collide), split, _digest(path)))
    empty = {_full(part, label, collide) for part, label, _, path in found if path is None}
    _check_classes(source, items, empty)
    return sorted(items, key=lambda item: item.name)


def _full(part: str, label: str, collide: set[str]) -> str:
    """A class's name; with its dataset's where two datasets of a union have a class of this name."""
    return f"{label} ({part})" if label in collide else label


def fingerprint(items: list[Item]) -> str:
    """SHA-256 over each file's name, class, split and content: equal means the same dataset."""
    lines = (f"{item.name}\0{item.label}\0{item.split}\0{item.digest}\n" for item in items)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _check_classes(source: Source, items: list[Item], empty: set[str]) -> None:
    where = ", ".join(str(folder) for folder in source.parts.values())
    if not items:
        raise UserError(f"There are no images in {where}. A dataset is a folder with one folder of images per class.")
    counts = Counter(item.label for item in items)
    small = sorted([*empty - counts.keys(), *(label for label, count in counts.items() if count < MIN_IMAGES)])
    if small:
        listed = ", ".join(f"{label} ({counts[label]})" for label in small[:10])
        raise UserError(
            f"Each class needs at least {MIN_IMAGES} images; too few in {where}: {listed}. "
            "Add images or remove the folder."
        )
    if len(counts) < 2:
        raise UserError(f"There is only one class in {where}: {next(iter(counts))}. A classifier needs two or more.")


def _list_part(part: str, folder: Path) -> Iterator[tuple[str, str, str | None, Path | None]]:
    """(part, label, split, path) of each image; path is None for a class folder without images."""
    seen: set[tuple[int, int]] = set()
    for split, parent in _split_folders(folder):
        for name, class_folder in _subfolders(parent).items():
            paths = list(_walk(class_folder, seen))
            yield from ((part, name, split, path) for path in paths)
            if not paths and split in (None, "train"):
                yield part, name, split, None


def _split_folders(folder: Path) -> list[tuple[str | None, Path]]:
    subfolders = _subfolders(folder)
    given = {SPLIT_FOLDERS[name.lower()]: path for name, path in subfolders.items() if name.lower() in SPLIT_FOLDERS}
    if "train" in given and len(given) > 1 and _subfolders(given["train"]):
        return list(given.items())
    return [(None, folder)]


def _subfolders(folder: Path) -> dict[str, Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    return {entry.name: Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Image files below `folder`; `seen` holds (device, inode), so that no link leads in circles."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            continue
        if entry.is_dir():
            seen.add(identity)
            yield from _walk(Path(entry.path), seen)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            seen.add(identity)
            yield Path(entry.path)


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
