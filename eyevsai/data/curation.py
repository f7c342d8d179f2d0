"""Selection of a dataset's images: reject files that do not decode, group duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.decode import Depth, find_depth, parse_depth
from eyevsai.data.duplicate_groups import find_duplicate_groups, join_groups
from eyevsai.data.duplicates import DuplicateGroups
from eyevsai.data.folder_layout import LAYOUT
from eyevsai.data.image_checks import ImageInfo, check_images, has_wrong_extension
from eyevsai.data.image_folder import ImageFile, index_dataset
from eyevsai.data.provided_splits import drop_split_overlaps
from eyevsai.data.unused_files import UnusedFile, describe_unused

MIN_IMAGES = 3  # per class: one for each of train, valid and test
MAX_SHOWN = 10  # classes or files listed in a message
DARK_RATIO = 0.1  # of white: an image whose largest value is lower looks black


@dataclass(frozen=True)
class Sample:
    """An image of a curated dataset.

    Attributes:
        file: the image file, with its class.
        record: result of the image check.
        group: id of the group; all images of a group are in one split.
        copy: id of the duplicate group; images with the same id are duplicates of each other. An
            image without duplicates has an id of its own.
    """

    file: ImageFile
    record: ImageInfo
    group: int
    copy: int = -1

    @property
    def name(self) -> str:
        """Path of the image that is the same on every machine: part/relative path."""
        return self.file.name

    @property
    def label(self) -> str:
        """Name of the image's class."""
        return self.file.label


@dataclass(frozen=True)
class CuratedDataset:
    """The images of a dataset that are used, and the findings of the checks.

    Attributes:
        source: the dataset's folders.
        classes: all class names, sorted, including those without images.
        files: all image files, sorted by name.
        records: result of the image check for each of `files`.
        samples: the images in use, sorted by name, including duplicates that may share a split.
        left_out: duplicates that are not used because another provided split contains the image.
        depth: white levels of images with more than 8 bits.
        unused: files that are not read as images.
        notes: remarks for the user about how the dataset was read.
        conflicts: pairs of duplicates or near-duplicates with different classes.
        sequences: sets with too many similar images to be duplicates, such as video frames.
    """

    source: DatasetFolder
    classes: list[str]
    files: list[ImageFile]
    records: list[ImageInfo]
    samples: list[Sample]
    left_out: list[Sample]
    depth: Depth = field(default_factory=Depth)
    unused: list[UnusedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conflicts: list[tuple[Sample, Sample]] = field(default_factory=list)
    sequences: list[list[Sample]] = field(default_factory=list)

    @property
    def bad(self) -> list[tuple[ImageFile, ImageInfo]]:
        """Files that cannot be used, with their records; `record.error` is the reason."""
        return [
            (file, record)
            for file, record in zip(self.files, self.records, strict=True)
            if record.error
        ]

    @property
    def wrong_extension(self) -> list[tuple[ImageFile, ImageInfo]]:
        """Files that decode, but whose suffix belongs to another format."""
        return [
            (file, record)
            for file, record in zip(self.files, self.records, strict=True)
            if has_wrong_extension(file, record)
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in use by class; 0 for classes without images."""
        counter = Counter(sample.label for sample in self.samples)
        return {label: counter[label] for label in self.classes}

    @property
    def left_out_by_class(self) -> dict[str, int]:
        """Number of images in `left_out` by class, without classes that have none."""
        return dict(sorted(Counter(sample.label for sample in self.left_out).items()))

    def duplicates(self) -> list[list[Sample]]:
        """Return the groups of two or more duplicates, including images in `left_out`."""
        groups: dict[int, list[Sample]] = {}
        for sample in [*self.samples, *self.left_out]:
            groups.setdefault(sample.copy, []).append(sample)
        return [members for members in groups.values() if len(members) > 1]

    def fingerprint(self) -> str:
        """Return a SHA-256 digest of the dataset, as hexadecimal text.

        It covers name, class, provided split and content of each image in use.
        """
        lines = (
            f"{sample.name}\0{sample.label}\0{sample.file.split}\0{sample.record.digest}\n"
            for sample in self.samples
        )
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def describe_classes(self) -> str:
        """Return e.g. `120 images in 2 classes: cat (60), dog (60)`, with up to 10 classes."""
        counts = self.counts
        shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:MAX_SHOWN])
        more = f", and {len(counts) - MAX_SHOWN} more" if len(counts) > MAX_SHOWN else ""
        return f"{len(self.samples)} images in {len(counts)} classes: {shown}{more}"

    def describe_unused(self) -> str:
        """Return counts and examples of `unused`, `bad` and `left_out`; empty if all are empty."""
        copies = [
            UnusedFile(sample.file.path, "that are copies of images of another split")
            for sample in self.left_out
        ]
        bad = [UnusedFile(file.path, "that do not decode") for file, _ in self.bad]
        return describe_unused([*self.unused, *bad, *copies])

    def report(self) -> dict[str, Any]:
        """Return the findings as values that can be written as JSON."""
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
                    "images": [sample.name for sample in members],
                    "exact": len({sample.record.pixels for sample in members}) == 1,
                    "classes": sorted({sample.label for sample in members}),
                }
                for members in self.duplicates()
            ],
            "left_out": [sample.name for sample in self.left_out],
            "left_out_by_class": self.left_out_by_class,
            "conflicts": [[one.name, other.name] for one, other in self.conflicts],
            "sequences": [
                {
                    "images": len(members),
                    "classes": sorted({sample.label for sample in members}),
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
    """Index a dataset, check its images, and group duplicates.

    Files that do not decode are recorded, whatever their number: see `check_usable`.

    Args:
        source: the folders, and the label table if there is one.
        cache_dir: folder in which results are cached.
        duplicates: `near`, `exact` or `off`: see `find_duplicates`.
        bit_depth: value of `DataSettings.bit_depth`; `auto` derives the range from the images.

    Raises:
        UserError: the folders have no known layout or no images, the label table does not match,
            or the cache cannot be written.
    """
    index = index_dataset(source)
    if not index.files:
        raise UserError(f"There are no images in {source.location}. {LAYOUT}.")
    records = check_images(index.files, cache_dir)
    ranges = (record.range for record in records)
    depth = find_depth(ranges) if bit_depth == "auto" else parse_depth(bit_depth)
    good = [pair for pair in zip(index.files, records, strict=True) if not pair[1].error]
    copies = find_duplicate_groups(good, depth, cache_dir, duplicates)
    groups = join_groups([file for file, _ in good], copies.groups)
    candidates = [
        Sample(*pair, group, copy)
        for pair, group, copy in zip(good, groups, copies.groups, strict=True)
    ]
    samples, left_out, overlap_notes = drop_split_overlaps(candidates)
    notes = [
        *index.notes,
        *_describe_depth(records, depth),
        *_describe_sequences(candidates, copies),
        *overlap_notes,
    ]
    return CuratedDataset(
        source,
        index.classes,
        index.files,
        records,
        samples,
        left_out,
        depth,
        index.unused,
        notes,
        _find_conflicts(candidates, copies),
        [[candidates[index] for index in indices] for indices in copies.sequences],
    )


def _find_conflicts(
    samples: Sequence[Sample], copies: DuplicateGroups
) -> list[tuple[Sample, Sample]]:
    near = ((samples[one], samples[other]) for one, other in copies.conflicts)
    return [*_find_exact_conflicts(samples), *near]


def _find_exact_conflicts(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Return pairs of duplicates with equal pixels and different classes.

    For each set of equal images, the first one is paired with the first image of each other class.
    Without the duplicate search (`off`) there are no pairs.
    """
    first, seen, pairs = dict[str, Sample](), set[tuple[str, str]](), list[tuple[Sample, Sample]]()
    for sample in samples:
        pixels, label = sample.record.pixels, sample.label
        one = first.setdefault(pixels, sample)
        if label != one.label and (pixels, label) not in seen and one.copy == sample.copy:
            seen.add((pixels, label))
            pairs.append((one, sample))
    return pairs


def _describe_depth(records: Sequence[ImageInfo], depth: Depth) -> list[str]:
    deep = [record for record in records if record.top > 0 or record.low < 0]
    if not deep:
        return []
    white_levels = {
        f"{depth.float_top:g} (float)" if record.is_float else f"{depth.integer_top:g}"
        for record in deep
    }
    notes = [
        f"{len(deep)} images have more than 8 bits: white is {', '.join(sorted(white_levels))} "
        "(--bit-depth)"
    ]
    dark = [
        record
        for record in deep
        if record.top < DARK_RATIO * (depth.float_top if record.is_float else depth.integer_top)
    ]
    if num_negative := sum(record.low < 0 for record in deep):
        notes.append(
            f"{num_negative} of these have values below 0, which are clipped to black: add an "
            "offset to the files"
        )
    if len(dark) > len(deep) / 2:
        notes.append(f"{len(dark)} of these are nearly black: check --bit-depth")
    return notes


def _describe_sequences(samples: Sequence[Sample], copies: DuplicateGroups) -> list[str]:
    notes = []
    for indices in copies.sequences:
        labels = ", ".join(sorted({samples[index].label for index in indices})[:3])
        notes.append(
            f"{len(indices)} images of {labels} look like frames of one scene, such as "
            f"{samples[indices[0]].name}: use --groups to keep them in one split"
        )
    return notes


def check_bad_fraction(curated: CuratedDataset, max_bad_fraction: float) -> None:
    """Raise UserError if the fraction of bad files exceeds `max_bad_fraction`."""
    location = curated.source.location
    bad = curated.bad
    if len(bad) > max_bad_fraction * len(curated.files):
        details = "".join(f"\n  {file.path} {record.error}" for file, record in bad[:MAX_SHOWN])
        more = f"\n  and {len(bad) - MAX_SHOWN} more" if len(bad) > MAX_SHOWN else ""
        raise UserError(
            f"{len(bad)} of {len(curated.files)} images in {location} cannot be used, more than "
            f"--max-bad-fraction {max_bad_fraction:g} allows. Fix or remove them; `eyevsai data "
            f"check` lists all.{details}{more}"
        )


def check_usable(curated: CuratedDataset, max_bad_fraction: float) -> None:
    """Raise UserError unless a classifier can be trained on the dataset.

    It needs at least two classes and MIN_IMAGES images of each, and the fraction of bad files must
    not exceed `max_bad_fraction`.
    """
    check_bad_fraction(curated, max_bad_fraction)
    location = curated.source.location
    small = [f"{label} ({count})" for label, count in curated.counts.items() if count < MIN_IMAGES]
    if small:
        more = f" and {len(small) - MAX_SHOWN} more" if len(small) > MAX_SHOWN else ""
        notes = f" Notes: {'; '.join(curated.notes)}." if curated.notes else ""
        raise UserError(
            f"Each class needs at least {MIN_IMAGES} images; too few in {location}: "
            f"{', '.join(small[:MAX_SHOWN])}{more}. Add images, or remove the class.{notes}"
        )
    if len(curated.classes) < 2:
        raise UserError(
            f"There is only one class in {location}: {curated.classes[0]}. A classifier needs at "
            "least two: add images of another class."
        )
