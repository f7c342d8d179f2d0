"""Frozen data of a retraining, in a folder that is named by the digest of its content:

data/            images of the dataset, under the paths that they had, and `new/`
labels.csv       class and split of each image of data/
recent/          test split of new labels, a numbered folder for each class
recent.toml      classes of these folders
manifest.json    digest, counts, and class, split and SHA-256 of each image
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eyevsai.core.errors import UserError, read_error
from eyevsai.core.hashing import hash_file
from eyevsai.retraining.selection import RECENT

DATA, TABLE, RECENT_MAP, MANIFEST = "data", "labels.csv", "recent.toml", "manifest.json"
GROUP = "group"  # column of the table
NAME_LENGTH = 24  # digits of the digest in the name of a folder


@dataclass(frozen=True)
class FrozenImage:
    """Image of frozen data; `path` is below data/ or recent/."""

    path: str
    label: str
    split: str
    sha256: str
    group: str = ""


@dataclass(frozen=True)
class FrozenData:
    """Frozen folder, with its digest, and the number of new images by split or reason."""

    folder: Path
    digest: str
    counts: Mapping[str, int]
    has_groups: bool = False

    @property
    def data(self) -> Path:
        """Folder of the dataset's images."""
        return self.folder / DATA

    @property
    def table(self) -> Path:
        """Label table of the dataset."""
        return self.folder / TABLE

    @property
    def recent(self) -> Path | None:
        """Folder of the test split `recent`; None if it has no images."""
        return self.folder / RECENT if self.counts.get(RECENT) else None

    @property
    def recent_map(self) -> Path:
        """Class map of the folders of `recent`."""
        return self.folder / RECENT_MAP


def write_table(path: Path, images: Iterable[FrozenImage]) -> None:
    """Write the label table of images."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "label", "split", GROUP))
        writer.writerows((each.path, each.label, each.split, each.group) for each in images)


def write_frozen(
    folder: Path, images: Sequence[FrozenImage], counts: Mapping[str, int], base: str
) -> FrozenData:
    """Write table, class map and manifest of images, and move those of `recent`.

    Args:
        folder: folder with all images in data/.
        images: the images, with paths below data/.
        counts: number of new images by split or reason.
        base: URI of the version in Production.
    """
    names = {label: f"{index:04d}" for index, label in enumerate(sorted(_labels_of(images)))}
    kept = sorted((each for each in images if each.split != RECENT), key=lambda each: each.path)
    recent = list[FrozenImage]()
    for image in sorted(images, key=lambda each: each.path):
        if image.split == RECENT:
            path = f"{names[image.label]}/{PurePosixPath(image.path).name}"
            (folder / RECENT / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / DATA / image.path).replace(folder / RECENT / path)
            recent.append(FrozenImage(path, image.label, RECENT, image.sha256))
    write_table(folder / TABLE, kept)
    # JSON and TOML quote text alike
    lines = (
        f"{json.dumps(names[label])} = {json.dumps(label, ensure_ascii=False)}\n"
        for label in sorted(_labels_of(recent))
    )
    (folder / RECENT_MAP).write_text("".join(lines), encoding="utf-8")
    digest = _digest([*kept, *recent])
    content = {
        "digest": digest,
        "base": base,
        "counts": dict(counts),
        "images": [vars(each) for each in (*kept, *recent)],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return FrozenData(folder, digest, counts, any(each.group for each in kept))


def find_frozen(root: Path, digest: str) -> Path:
    """Return the folder of a digest, which may not exist."""
    return root / digest[:NAME_LENGTH]


def open_frozen(root: Path, digest: str) -> FrozenData:
    """Return the frozen data of a digest, after comparing each image with the manifest.

    Raises:
        UserError: the folder does not exist, or an image is missing or was changed.
    """
    folder = find_frozen(root, digest)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"There are no frozen data in {folder}. Restore the folder, or set --retraining-dir to "
            "that of the watcher which froze them."
        ) from error
    images = [FrozenImage(**each) for each in manifest["images"]]
    if manifest["digest"] != digest or _digest(images) != digest:
        raise UserError(f"{folder / MANIFEST} was changed. Restore it.")
    for image in images:
        path = folder / (RECENT if image.split == RECENT else DATA) / image.path
        try:
            is_same = hash_file(path) == image.sha256
        except OSError as error:
            raise read_error(path, error, "Restore the frozen data.") from error
        if not is_same:
            raise UserError(f"{path} has changed since it was frozen (SHA-256). Restore it.")
    return FrozenData(folder, digest, manifest["counts"], any(each.group for each in images))


def _labels_of(images: Iterable[FrozenImage]) -> set[str]:
    return {each.label for each in images}


def _digest(images: Iterable[FrozenImage]) -> str:
    """Return the SHA-256 of split, class, digest and path of each image."""
    lines = sorted(f"{each.split}\0{each.label}\0{each.sha256}\0{each.path}\n" for each in images)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
