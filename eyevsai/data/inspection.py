"""From files to the images that are used: the bad ones left out and named, duplicates put
together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.data.audit import Record, audit_files, is_misnamed
from eyevsai.data.catalogue import Source
from eyevsai.data.copies import find_copies, join_groups
from eyevsai.data.decode import Depth, find_depth, named_depth
from eyevsai.data.duplicates import Found
from eyevsai.data.folders import LAYOUT
from eyevsai.data.given_splits import part_given_splits
from eyevsai.data.index import File, index_files
from eyevsai.data.unused import Unused, describe_unused

MIN_IMAGES = 3  # one for each of train, valid and test
SHOWN = 10
DARK = 0.1  # of white: an image whose largest value is below it looks black


@dataclass(frozen=True)
class Item:
    """One image that is used. Images of one `copy` show the same; those of one `group` share a
    split.
    """

    file: File
    record: Record
    group: int
    copy: int = -1

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
    depth: Depth = field(default_factory=Depth)
    unused: list[Unused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conflicts: list[tuple[Item, Item]] = field(default_factory=list)  # alike, and of two classes
    sequences: list[list[Item]] = field(default_factory=list)  # alike, and too many to be copies

    @property
    def bad(self) -> list[tuple[File, Record]]:
        """Files that cannot be used, with the reason in their record."""
        return [
            (file, record)
            for file, record in zip(self.files, self.records, strict=True)
            if record.error
        ]

    @property
    def misnamed(self) -> list[tuple[File, Record]]:
        """Files that decode and are of another format than their name says."""
        return [
            (f, record)
            for f, record in zip(self.files, self.records, strict=True)
            if is_misnamed(f, record)
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Images in use by class, classes without any too."""
        counted = Counter(item.label for item in self.items)
        return {label: counted[label] for label in self.classes}

    @property
    def left_out_by_class(self) -> dict[str, int]:
        """Images that were left out, by class."""
        return dict(sorted(Counter(item.label for item in self.left_out).items()))

    def duplicates(self) -> list[list[Item]]:
        """Groups of two images or more that show the same, those that were left out too."""
        groups: dict[int, list[Item]] = {}
        for item in [*self.items, *self.left_out]:
            groups.setdefault(item.copy, []).append(item)
        return [members for members in groups.values() if len(members) > 1]

    def fingerprint(self) -> str:
        """SHA-256 over name, class, split and content of each image in use: equal means the same
        dataset.
        """
        lines = (f"{i.name}\0{i.label}\0{i.file.split}\0{i.record.digest}\n" for i in self.items)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def describe_classes(self) -> str:
        """`120 images in 2 classes: cat (60), dog (60)`: the first ten classes."""
        counts = self.counts
        shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:SHOWN])
        more = f", and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
        return f"{len(self.items)} images in {len(counts)} classes: {shown}{more}"

    def describe_unused(self) -> str:
        """Files that are not read, by reason; empty if all are."""
        left = [
            Unused(item.file.path, "that are copies of images of another split")
            for item in self.left_out
        ]
        bad = [Unused(file.path, "that do not decode") for file, _ in self.bad]
        return describe_unused([*self.unused, *bad, *left])

    def report(self) -> dict[str, Any]:
        """What was found, as plain values."""
        return {
            "dataset": self.source.name,
            "files": len(self.files),
            "images": len(self.items),
            "classes": self.counts,
            "bad": [{"image": file.name, "reason": record.error} for file, record in self.bad],
            "misnamed": [
                {"image": file.name, "format": record.kind} for file, record in self.misnamed
            ],
            "duplicates": [
                {
                    "images": [item.name for item in members],
                    "exact": len({item.record.pixels for item in members}) == 1,
                    "classes": sorted({item.label for item in members}),
                }
                for members in self.duplicates()
            ],
            "left_out": [item.name for item in self.left_out],
            "left_out_by_class": self.left_out_by_class,
            "conflicts": [[one.name, other.name] for one, other in self.conflicts],
            "sequences": [
                {
                    "images": len(members),
                    "classes": sorted({item.label for item in members}),
                    "example": members[0].name,
                }
                for members in self.sequences
            ],
            "not_used": self.describe_unused(),
            "notes": self.notes,
            "bit_depth": asdict(self.depth) if any(record.top for record in self.records) else None,
        }


def inspect_source(
    source: Source, cache_root: Path, duplicates: str = "near", bit_depth: str = "auto"
) -> Inspection:
    """Index, audit and duplicates of a dataset, however many of its files are bad.

    Args:
        source: the folders, and the label table if there is one.
        cache_root: where what was found is kept for the next look.
        duplicates: `near`, `exact` or `off`: see `find_duplicates`.
        bit_depth: `auto` or a depth of `DataSettings`, for images with more than 8 bits.

    Raises:
        UserError: there are no images.
    """
    index = index_files(source)
    if not index.files:
        raise UserError(f"There are no images in {source.where}. {LAYOUT}.")
    records = audit_files(index.files, cache_root)
    depth = (
        find_depth(record.range for record in records)
        if bit_depth == "auto"
        else named_depth(bit_depth)
    )
    good = [
        (file, record)
        for file, record in zip(index.files, records, strict=True)
        if not record.error
    ]
    found = find_copies(good, depth, cache_root, duplicates)
    groups = join_groups([file for file, _ in good], found.groups)
    items = [
        Item(*pair, group, copy)
        for pair, group, copy in zip(good, groups, found.groups, strict=True)
    ]
    kept, left_out, spared = part_given_splits(items)
    notes = [
        *index.notes,
        *_describe_depth(records, depth),
        *_describe_sequences(items, found),
        *spared,
    ]
    return Inspection(
        source,
        index.classes,
        index.files,
        records,
        kept,
        left_out,
        depth,
        index.unused,
        notes,
        [
            *_equal_in_two_classes(items),
            *((items[one], items[other]) for one, other in found.conflicts),
        ],
        [[items[place] for place in places] for places in found.sequences],
    )


def _equal_in_two_classes(items: Sequence[Item]) -> list[tuple[Item, Item]]:
    """Pairs of images with equal pixels and two labels: the first image of the pixels, and that of
    each other label.
    """
    first, seen, pairs = dict[str, Item](), set[tuple[str, str]](), list[tuple[Item, Item]]()
    for item in items:
        pixels, label = item.record.pixels, item.label
        one = first.setdefault(pixels, item)
        if label != one.label and (pixels, label) not in seen and one.copy == item.copy:
            seen.add((pixels, label))
            pairs.append((one, item))
    return pairs


def _describe_depth(records: Sequence[Record], depth: Depth) -> list[str]:
    deep = [record for record in records if record.top > 0 or record.low < 0]
    if not deep:
        return []
    whites = {
        f"{depth.float_top:g} (float)" if record.is_float else f"{depth.integer_top:g}"
        for record in deep
    }
    notes = [
        f"{len(deep)} images have more than 8 bits: {', '.join(sorted(whites))} is white "
        "(--bit-depth)"
    ]
    dark = [
        record
        for record in deep
        if record.top < DARK * (depth.float_top if record.is_float else depth.integer_top)
    ]
    if below := sum(record.low < 0 for record in deep):
        notes.append(
            f"{below} of these have values below 0, which become black: add an offset to the files"
        )
    if len(dark) > len(deep) / 2:
        notes.append(f"{len(dark)} of these are nearly black: is it another --bit-depth?")
    return notes


def _describe_sequences(items: Sequence[Item], found: Found) -> list[str]:
    notes = []
    for places in found.sequences:
        labels = ", ".join(sorted({items[place].label for place in places})[:3])
        notes.append(
            f"{len(places)} images of {labels} look like frames of one scene, such as "
            f"{items[places[0]].name}: --groups keeps those that belong together in one split"
        )
    return notes


def refuse_bad(found: Inspection, max_bad_fraction: float) -> None:
    """Raises UserError when there are too many images that cannot be used."""
    where = found.source.where
    if len(found.bad) > max_bad_fraction * len(found.files):
        listed = "".join(f"\n  {file.path}: {record.error}" for file, record in found.bad[:SHOWN])
        more = f"\n  and {len(found.bad) - SHOWN} more" if len(found.bad) > SHOWN else ""
        raise UserError(
            f"{len(found.bad)} of {len(found.files)} images in {where} cannot be used, more "
            "than --max-bad-fraction "
            f"{max_bad_fraction:g} allows. Mend or remove them; `eyevsai data check` shows "
            f"all.{listed}{more}"
        )


def refuse_unusable(found: Inspection, max_bad_fraction: float) -> None:
    """Raises UserError for what a person must mend before anything can be learned."""
    refuse_bad(found, max_bad_fraction)
    where = found.source.where
    small = [f"{label} ({count})" for label, count in found.counts.items() if count < MIN_IMAGES]
    if small:
        raise UserError(
            f"Each class needs at least {MIN_IMAGES} images; too few in {where}: "
            f"{', '.join(small[:SHOWN])}. "
            "Add images or remove the folder."
        )
    if len(found.classes) < 2:
        raise UserError(
            f"There is only one class in {where}: {found.classes[0]}. A classifier needs two or "
            "more."
        )
