"""The image files of a dataset: each once, sorted, with its class and, where given, its split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eyevsai.data.catalogue import Source
from eyevsai.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
SPLIT_FOLDERS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}


@dataclass(frozen=True)
class File:
    """One image file. `split` is None where the dataset's layout gives none."""

    path: Path
    name: str  # part/relative path, with forward slashes: stable between machines
    label: str
    split: str | None
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Index:
    """All image files of a dataset, sorted by name, and all classes, those without a file too."""

    files: list[File]
    classes: list[str]


def index_files(source: Source) -> Index:
    """The files of all parts of `source`; classes of the same name in two parts are kept apart.

    Raises:
        UserError: a folder that cannot be read.
    """
    parts = {part: list(_class_folders(folder)) for part, folder in source.parts.items()}
    owners: dict[str, set[str]] = {}
    for part, folders in parts.items():
        for _, label, _ in folders:
            owners.setdefault(label, set()).add(part)
    files, classes = [], set()
    for part, folders in parts.items():
        seen: set[tuple[int, int]] = set()
        for split, label, folder in folders:
            full = f"{label} ({part})" if len(owners[label]) > 1 else label
            classes.add(full)
            for path, status in _walk(folder, seen):
                name = f"{part}/{path.relative_to(source.parts[part]).as_posix()}"
                files.append(File(path, name, full, split, status.st_size, status.st_mtime_ns))
    return Index(sorted(files, key=lambda file: file.name), sorted(classes))


def _class_folders(folder: Path) -> Iterator[tuple[str | None, str, Path]]:
    """(split, label, folder) of each class, in the layout that the folder has."""
    subfolders = _subfolders(folder)
    given = {SPLIT_FOLDERS[name.lower()]: path for name, path in subfolders.items() if name.lower() in SPLIT_FOLDERS}
    if "train" in given and len(given) > 1 and _subfolders(given["train"]):
        for split, parent in given.items():
            yield from ((split, label, path) for label, path in _subfolders(parent).items())
    else:
        yield from ((None, label, path) for label, path in subfolders.items())


def _subfolders(folder: Path) -> dict[str, Path]:
    return {name: Path(entry.path) for name, entry in _entries(folder).items() if entry.is_dir()}


def _entries(folder: Path) -> dict[str, os.DirEntry[str]]:
    """What lies in a folder and is not hidden, by name, sorted."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}. Mend its permissions.") from error
    return {entry.name: entry for entry in entries if not entry.name.startswith(".")}


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, os.stat_result]]:
    """Image files below `folder`; `seen` holds (device, inode), so that no link leads in circles."""
    for name, entry in _entries(folder).items():
        try:
            status = entry.stat()
        except OSError:  # a link to nothing
            continue
        identity = (status.st_dev, status.st_ino)
        is_image = Path(name).suffix.lower() in SUFFIXES and entry.is_file()
        if identity in seen or not (is_image or entry.is_dir()):
            continue
        seen.add(identity)
        if is_image:
            yield Path(entry.path), status
        else:
            yield from _walk(Path(entry.path), seen)
