"""From files to the images that are used: the bad ones left out and named, duplicates put together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.data.audit import Record, audit_files, is_misnamed
from eyevsai.data.catalogue import LAYOUT, Source
from eyevsai.data.duplicates import group_duplicates
from eyevsai.data.index import File, index_files
from eyevsai.errors import UserError

MIN_IMAGES = 3  # one for each of train, valid and test
SHOWN = 10
GIVEN_ORDER = ("test", "valid", "train")  # who keeps an image that stands in two given splits


@dataclass(frozen=True)
class Item:
    """One image that is used. Images of one `group` show the same and share a split."""

    file: File
    record: Record
    group: int

    @property
    def name(self) -> str:
        """See `File.name`."""
        return self.file.name

    @property
    def label(self) -> str:
        """See `File.label`."""
        return self.file.label


@dataclass(frozen=True)
class Inspection:
    """What is used of a dataset, and what was found on the way there."""

    source: Source
    classes: list[str]
    files: list[File]
    records: list[Record]
    items: list[Item]
    left_out: list[Item]  # copies of an image that another given split keeps

    @property
    def bad(self) -> list[tuple[File, Record]]:
        """Files that cannot be used, with the reason in their record."""
        return [(file, record) for file, record in zip(self.files, self.records, strict=True) if record.error]

    @property
    def misnamed(self) -> list[tuple[File, Record]]:
        """Files that decode and are of another format than their name says."""
        return [(f, record) for f, record in zip(self.files, self.records, strict=True) if is_misnamed(f, record)]

    @property
    def counts(self) -> dict[str, int]:
        """Images in use by class, classes without any too."""
        counted = Counter(item.label for item in self.items)
        return {label: counted[label] for label in self.classes}

    def duplicates(self) -> list[list[Item]]:
        """Groups of two images or more that show the same, those that were left out too."""
        groups: dict[int, list[Item]] = {}
        for item in [*self.items, *self.left_out]:
            groups.setdefault(item.group, []).append(item)
        return [members for members in groups.values() if len(members) > 1]

    def fingerprint(self) -> str:
        """SHA-256 over name, class, split and content of each image in use: equal means the same dataset."""
        lines = (f"{i.name}\0{i.label}\0{i.file.split}\0{i.record.digest}\n" for i in self.items)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def report(self) -> dict[str, Any]:
        """What was found, as plain values."""
        return {
            "dataset": self.source.name,
            "files": len(self.files),
            "images": len(self.items),
            "classes": self.counts,
            "bad": [{"image": file.name, "reason": record.error} for file, record in self.bad],
            "misnamed": [{"image": file.name, "format": record.kind} for file, record in self.misnamed],
            "duplicates": [
                {
                    "images": [item.name for item in members],
                    "exact": len({item.record.pixels for item in members}) == 1,
                    "classes": sorted({item.label for item in members}),
                }
                for members in self.duplicates()
            ],
            "left_out": [item.name for item in self.left_out],
        }


def inspect_source(source: Source, cache_root: Path) -> Inspection:
    """Index, audit and duplicates of a dataset, however many of its files are bad.

    Raises:
        UserError: there are no images.
    """
    index = index_files(source)
    if not index.files:
        raise UserError(f"There are no images in {source.where}. {LAYOUT}")
    records = audit_files(index.files, cache_root)
    good = [(file, record) for file, record in zip(index.files, records, strict=True) if not record.error]
    groups = group_duplicates([record for _, record in good])
    items = [Item(file, record, group) for (file, record), group in zip(good, groups, strict=True)]
    kept, left_out = _part_given_splits(items)
    return Inspection(source, index.classes, index.files, records, kept, left_out)


def refuse_bad(found: Inspection, max_bad_fraction: float) -> None:
    """Raises UserError when there are too many images that cannot be used."""
    where = found.source.where
    if len(found.bad) > max_bad_fraction * len(found.files):
        listed = "".join(f"\n  {file.path}: {record.error}" for file, record in found.bad[:SHOWN])
        more = f"\n  and {len(found.bad) - SHOWN} more" if len(found.bad) > SHOWN else ""
        raise UserError(
            f"{len(found.bad)} of {len(found.files)} images in {where} cannot be used, more than --max-bad-fraction "
            f"{max_bad_fraction:g} allows. Mend or remove them; `eyevsai data check` shows all.{listed}{more}"
        )


def refuse_unusable(found: Inspection, max_bad_fraction: float) -> None:
    """Raises UserError for what a person must mend before anything can be learned."""
    refuse_bad(found, max_bad_fraction)
    where = found.source.where
    small = [f"{label} ({count})" for label, count in found.counts.items() if count < MIN_IMAGES]
    if small:
        raise UserError(
            f"Each class needs at least {MIN_IMAGES} images; too few in {where}: {', '.join(small[:SHOWN])}. "
            "Add images or remove the folder."
        )
    if len(found.classes) < 2:
        raise UserError(f"There is only one class in {where}: {found.classes[0]}. A classifier needs two or more.")


def _part_given_splits(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Of images that stand in two given splits, those of the more careful split are kept."""
    keeper: dict[int, int] = {}
    for item in items:
        if item.file.split is not None:
            rank = GIVEN_ORDER.index(item.file.split)
            keeper[item.group] = min(rank, keeper.get(item.group, rank))
    kept: list[Item] = []
    left_out: list[Item] = []
    for item in items:
        split = item.file.split
        wanted = split is None or GIVEN_ORDER.index(split) == keeper[item.group]
        (kept if wanted else left_out).append(item)
    return kept, left_out
