"""Freezing of the training data of the version in Production, together with new labels."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eyevsai.config import explicit_settings
from eyevsai.core.atomic_dir import atomic_output_dir
from eyevsai.core.errors import JobError
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.curation import Sample, curate
from eyevsai.data.dataset import Dataset
from eyevsai.retraining.selection import (
    TRAIN,
    BaseGroups,
    NewImage,
    choose_valid_fraction,
    select_images,
)
from eyevsai.workflows.trained_model import TrainedModel
from eyevsai.workflows.watch.frozen_data import (
    DATA,
    GROUP,
    MANIFEST,
    FrozenData,
    FrozenImage,
    find_frozen,
    write_frozen,
    write_table,
)
from eyevsai.workflows.watch.labelled import LabelledImage

log = logging.getLogger("eyevsai")

NEW = "new"  # folder of labelled images in data/
_FROM_TRAFFIC = re.compile(rf"{NEW}/[0-9a-f]{{64}}(\.[a-z]+)?")  # a class can have that name, too
# table of all images, while their duplicates are searched; it is not kept
ALL = "all.csv"
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp"}


def freeze_data(
    base: TrainedModel, images: Sequence[LabelledImage], shares: tuple[float, float], root: Path
) -> FrozenData:
    """Freeze the dataset of a version with labelled images, and return the folder.

    The dataset must be that of the training, with the same split: its test images stay the test
    split. New images that resemble those of valid or test are left out, as are duplicates, and
    images that resemble each other and have different classes.

    Args:
        base: version in Production.
        images: labelled images.
        shares: share of the new images in `recent`, and of the others in valid; see
            `choose_valid_fraction`.
        root: folder of all frozen data.

    Raises:
        UserError: the dataset is missing or has changed, or the folder cannot be written.
        JobError: the disk is full.
    """
    dataset = base.load_dataset()
    with atomic_output_dir(root / NEW, "--retraining-dir") as temporary:
        try:
            frozen = _Freezer(base, dataset, temporary).freeze(images, shares)
            target = find_frozen(root, frozen.digest)
            if not (target / MANIFEST).is_file():
                shutil.rmtree(target, ignore_errors=True)
                temporary.replace(target)
        except OSError as error:
            raise JobError(
                f"The data cannot be frozen in {root}: {error.strerror or error}. Check the disk, "
                "or choose another --retraining-dir."
            ) from error
    log.info("New labels: %s", ", ".join(f"{name} {n}" for name, n in frozen.counts.items()))
    return replace(frozen, folder=target)


@dataclass
class _Freezer:
    """Frozen folder in the making: the images of a dataset, and new ones.

    `current` and `labels` have the samples of the dataset with their splits, and the classes of all
    images, by path below data/.
    """

    base: TrainedModel
    dataset: Dataset
    folder: Path
    current: dict[str, tuple[Sample, str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def freeze(self, images: Sequence[LabelledImage], shares: tuple[float, float]) -> FrozenData:
        """Place all images, select the new ones, and write the manifest."""
        self._place_current({each.sha256: each.label for each in images})
        new = self._place_new(images)
        samples, damaged = self._curate()
        recent, valid = shares
        selection = select_images(
            [
                NewImage(path, each.label, samples[path].copy, samples[path].record.pixels)
                for path, each in new.items()
                if path in samples
            ],
            self._group(samples),
            recent,
            choose_valid_fraction(*self._count(len(new)), valid),
        )
        for path in new.keys() - selection.splits.keys():
            (self.folder / DATA / path).unlink()
        frozen = [
            FrozenImage(
                path, self.labels[path], split, sample.record.digest, sample.file.group or ""
            )
            for path, (sample, split) in self.current.items()
        ]
        frozen += [
            FrozenImage(path, new[path].label, split, new[path].sha256)
            for path, split in selection.splits.items()
        ]
        counts = selection.counts() | ({"damaged": damaged} if damaged else {})
        return write_frozen(self.folder, frozen, counts, self.base.title)

    def _place_current(self, corrected: dict[str, str]) -> None:
        """Place the images of the dataset.

        Args:
            corrected: current class of labelled images by SHA-256: those that an earlier retraining
                has added to the dataset may have another one by now.
        """
        is_single = len(self.dataset.curated.source.parts) == 1
        for sample, split in zip(self.dataset.samples, self.dataset.split_names, strict=True):
            path = sample.name.partition("/")[2] if is_single else sample.name
            _place(sample.file.path, self.folder / DATA / path)
            is_labelled = is_from_traffic(path)
            label = corrected.get(sample.record.digest) if is_labelled else None
            self.current[path] = sample, split
            self.labels[path] = label or sample.label

    def _place_new(self, images: Iterable[LabelledImage]) -> dict[str, LabelledImage]:
        """Place the labelled images that the dataset lacks; return them by path below data/."""
        digests = {sample.record.digest for sample, _ in self.current.values()}
        placed = dict[str, LabelledImage]()
        for image in images:
            if image.sha256 not in digests:
                path = f"{NEW}/{image.sha256}{_suffix_of(image.path)}"
                _place(image.path, self.folder / DATA / path)
                placed[path], self.labels[path] = image, image.label
        return placed

    def _curate(self) -> tuple[dict[str, Sample], int]:
        """Search for duplicates; return the usable images by path, and the number of others."""
        table = self.folder / ALL
        write_table(table, [FrozenImage(*each, "", "") for each in self.labels.items()])
        curated = curate(
            DatasetFolder("frozen", {"frozen": self.folder / DATA}, str(table)),
            self.dataset.cache_dir,
            str(self.base.config.get("duplicates", "near")),
            str(self.base.config.get("bit_depth", "auto")),
        )
        table.unlink()
        samples = {each.name.partition("/")[2]: each for each in curated.samples}
        return samples, len(curated.bad)

    def _count(self, added: int) -> tuple[int, int]:
        """Return the number of images from the traffic, and that of other training images.

        Args:
            added: images from the traffic that the dataset does not have yet.
        """
        train = [path for path, (_, split) in self.current.items() if split == TRAIN]
        earlier = sum(map(is_from_traffic, train))
        return earlier + added, len(train) - earlier

    def _group(self, samples: dict[str, Sample]) -> BaseGroups:
        """Return splits, classes and pixels of the dataset's images by duplicate group."""
        splits, labels = dict[int, set[str]](), dict[int, set[str]]()
        for path, (_, split) in self.current.items():
            if path in samples:
                group = samples[path].copy
                splits.setdefault(group, set()).add(split)
                labels.setdefault(group, set()).add(self.labels[path])
        pixels = {sample.record.pixels for sample, _ in self.current.values()}
        return BaseGroups(splits, labels, pixels)


def is_from_traffic(path: str) -> bool:
    """Return True if the image at a path below data/ was added by a retraining."""
    return _FROM_TRAFFIC.fullmatch(path) is not None


def _place(source: Path, target: Path) -> None:
    """Link a file, or copy it if the file system cannot: it stays if the original is deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(source.resolve(), target)
        return
    shutil.copy2(source, target)


def _suffix_of(path: Path) -> str:
    """Return the suffix of an image by its first bytes; empty if they are not known."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return next((suffix for magic, suffix in _SUFFIXES.items() if start.startswith(magic)), "")


def training_values(base: TrainedModel, frozen: FrozenData, names: Iterable[str]) -> dict[str, Any]:
    """Return settings of `train` that repeat the training of a version on frozen data.

    Args:
        base: version in Production.
        frozen: frozen data.
        names: names of the settings that are taken over.
    """
    stored = explicit_settings(base.config)
    kept = {name: stored[name] for name in names if name in stored}
    values = {
        "model": base.config["model"],
        "variation": base.config["variation"],
        "data": str(frozen.data),
        "labels": str(frozen.table),
        "dataset_name": dataset_of(base),
    }
    return kept | values | ({"groups": GROUP} if frozen.has_groups else {})


def dataset_of(base: TrainedModel) -> str:
    """Return the name of the dataset of a version, after which the next one is registered."""
    named = base.config.get("dataset_name") or base.dataset_tags().get("dataset")
    return str(named or base.config["dataset"])
