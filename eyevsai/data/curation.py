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
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.decode import Depth, find_depth, named_depth
from eyevsai.data.duplicate_groups import find_duplicate_groups, join_groups
from eyevsai.data.duplicates import DuplicateGroups
from eyevsai.data.folder_layout import LAYOUT
from eyevsai.data.image_checks import ImageInfo, check_images, has_wrong_extension
from eyevsai.data.image_folder import ImageFile, index_dataset
from eyevsai.data.provided_splits import drop_split_overlaps
from eyevsai.data.unused_files import UnusedFile, describe_unused

MIN_IMAGES = 3  # one for each of train, valid and test
SHOWN = 10
DARK = 0.1  # of white: an image whose largest value is below it looks black


@dataclass(frozen=True)
class Sample:
    """One image that is used. Images of one `copy` show the same; those of one `group` share a
    split.
    """

    file: ImageFile
    record: ImageInfo
    group: int
    copy: int = -1

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def label(self) -> str:
        return self.file.label


@dataclass(frozen=True)
class CuratedDataset:
    """What is used of a dataset, and what was found on the way there."""

    source: DatasetFolder
    classes: list[str]
    files: list[ImageFile]
    records: list[ImageInfo]
    samples: list[Sample]
    left_out: list[Sample]  # copies of an image that another given split keeps
    depth: Depth = field(default_factory=Depth)
    unused: list[UnusedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conflicts: list[tuple[Sample, Sample]] = field(
        default_factory=list
    )  # alike, and of two classes
    sequences: list[list[Sample]] = field(default_factory=list)  # alike, and too many to be copies

    @property
    def bad(self) -> list[tuple[ImageFile, ImageInfo]]:
        """Files that cannot be used, with the reason in their record."""
        return [
            (file, record)
            for file, record in zip(self.files, self.records, strict=True)
            if record.error
        ]

    @property
    def wrong_extension(self) -> list[tuple[ImageFile, ImageInfo]]:
        """Files that decode and are of another format than their name says."""
        return [
            (f, record)
            for f, record in zip(self.files, self.records, strict=True)
            if has_wrong_extension(f, record)
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Images in use by class, classes without any too."""
        counted = Counter(item.label for item in self.samples)
        return {label: counted[label] for label in self.classes}

    @property
    def left_out_by_class(self) -> dict[str, int]:
        """Images that were left out, by class."""
        return dict(sorted(Counter(item.label for item in self.left_out).items()))

    def duplicates(self) -> list[list[Sample]]:
        """Groups of two images or more that show the same, those that were left out too."""
        groups: dict[int, list[Sample]] = {}
        for item in [*self.samples, *self.left_out]:
            groups.setdefault(item.copy, []).append(item)
        return [members for members in groups.values() if len(members) > 1]

    def fingerprint(self) -> str:
        """SHA-256 over name, class, split and content of each image in use: equal means the same
        dataset.
        """
        lines = (f"{i.name}\0{i.label}\0{i.file.split}\0{i.record.digest}\n" for i in self.samples)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def describe_classes(self) -> str:
        """`120 images in 2 classes: cat (60), dog (60)`: the first ten classes."""
        counts = self.counts
        shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:SHOWN])
        more = f", and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
        return f"{len(self.samples)} images in {len(counts)} classes: {shown}{more}"

    def describe_unused(self) -> str:
        """Files that are not read, by reason; empty if all are."""
        left = [
            UnusedFile(item.file.path, "that are copies of images of another split")
            for item in self.left_out
        ]
        bad = [UnusedFile(file.path, "that do not decode") for file, _ in self.bad]
        return describe_unused([*self.unused, *bad, *left])

    def report(self) -> dict[str, Any]:
        """What was found, as plain values."""
        return {
            "dataset": self.source.name,
            "files": len(self.files),
            "images": len(self.samples),
            "classes": self.counts,
            "bad": [{"image": file.name, "reason": record.error} for file, record in self.bad],
            "wrong_extension": [
                {"image": file.name, "format": record.kind} for file, record in self.wrong_extension
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


def curate(
    source: DatasetFolder, cache_dir: Path, duplicates: str = "near", bit_depth: str = "auto"
) -> CuratedDataset:
    """Index, check and group the duplicates of a dataset, however many of its files are bad.

    Args:
        source: the folders, and the label table if there is one.
        cache_dir: where what was found is kept for the next look.
        duplicates: `near`, `exact` or `off`: see `find_duplicates`.
        bit_depth: `auto` or a depth of `DataSettings`, for images with more than 8 bits.

    Raises:
        UserError: there are no images.
    """
    index = index_dataset(source)
    if not index.files:
        raise UserError(f"There are no images in {source.location}. {LAYOUT}.")
    records = check_images(index.files, cache_dir)
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
    found = find_duplicate_groups(good, depth, cache_dir, duplicates)
    groups = join_groups([file for file, _ in good], found.groups)
    items = [
        Sample(*pair, group, copy)
        for pair, group, copy in zip(good, groups, found.groups, strict=True)
    ]
    kept, left_out, spared = drop_split_overlaps(items)
    notes = [
        *index.notes,
        *_describe_depth(records, depth),
        *_describe_sequences(items, found),
        *spared,
    ]
    return CuratedDataset(
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
            *_exact_duplicates_across_classes(items),
            *((items[one], items[other]) for one, other in found.conflicts),
        ],
        [[items[place] for place in places] for places in found.sequences],
    )


def _exact_duplicates_across_classes(items: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Pairs of images with equal pixels and two labels: the first image of the pixels, and that of
    each other label.
    """
    first, seen, pairs = dict[str, Sample](), set[tuple[str, str]](), list[tuple[Sample, Sample]]()
    for item in items:
        pixels, label = item.record.pixels, item.label
        one = first.setdefault(pixels, item)
        if label != one.label and (pixels, label) not in seen and one.copy == item.copy:
            seen.add((pixels, label))
            pairs.append((one, item))
    return pairs


def _describe_depth(records: Sequence[ImageInfo], depth: Depth) -> list[str]:
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


def _describe_sequences(items: Sequence[Sample], found: DuplicateGroups) -> list[str]:
    notes = []
    for places in found.sequences:
        labels = ", ".join(sorted({items[place].label for place in places})[:3])
        notes.append(
            f"{len(places)} images of {labels} look like frames of one scene, such as "
            f"{items[places[0]].name}: --groups keeps those that belong together in one split"
        )
    return notes


def check_bad_fraction(found: CuratedDataset, max_bad_fraction: float) -> None:
    """Raises UserError when there are too many images that cannot be used."""
    where = found.source.location
    if len(found.bad) > max_bad_fraction * len(found.files):
        listed = "".join(f"\n  {file.path}: {record.error}" for file, record in found.bad[:SHOWN])
        more = f"\n  and {len(found.bad) - SHOWN} more" if len(found.bad) > SHOWN else ""
        raise UserError(
            f"{len(found.bad)} of {len(found.files)} images in {where} cannot be used, more than "
            f"--max-bad-fraction {max_bad_fraction:g} allows. Mend or remove them; `eyevsai data "
            f"check` shows all.{listed}{more}"
        )


def check_usable(found: CuratedDataset, max_bad_fraction: float) -> None:
    """Raises UserError for what a person must mend before anything can be learned."""
    check_bad_fraction(found, max_bad_fraction)
    where = found.source.location
    small = [f"{label} ({count})" for label, count in found.counts.items() if count < MIN_IMAGES]
    if small:
        raise UserError(
            f"Each class needs at least {MIN_IMAGES} images; too few in {where}: "
            f"{', '.join(small[:SHOWN])}. Add images or remove the folder."
        )
    if len(found.classes) < 2:
        raise UserError(
            f"There is only one class in {where}: {found.classes[0]}. A classifier needs two or "
            "more."
        )
