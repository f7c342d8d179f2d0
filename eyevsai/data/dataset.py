"""A dataset, ready to be learned from: index, split and pixels in one value."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.core.errors import UserError
from eyevsai.data.catalog import find_source
from eyevsai.data.curation import CuratedDataset, Sample, check_bad_fraction, check_usable, curate
from eyevsai.data.disk_cache import DiskCache
from eyevsai.data.folder_layout import TEST, TRAIN, VALID
from eyevsai.data.pixel_cache import PixelCache, load_pixels
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.data.split import split_items

log = logging.getLogger("eyevsai")

FEATURES_FILE = "features.npy"


@dataclass(frozen=True)
class Split:
    """The images of one split, as rows of the dataset's pixels."""

    pixels: PixelCache
    rows: Sequence[int]
    labels: Tensor  # N int64
    cache: DiskCache | None = None  # for what is computed from them

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def key(self) -> str:
        """Which images these are, in which order, decoded and resized how."""
        return (
            f"{self.pixels.key}/{hashlib.sha256(json.dumps(list(self.rows)).encode()).hexdigest()}"
        )

    def images(self, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
        """The images at `indices` of this split (all by default), each H,W,3 uint8."""
        for index in range(len(self)) if indices is None else indices:
            yield self.pixels.image(self.rows[index])

    def cached_features(
        self,
        made_from: str,
        compute: Callable[[], Tensor],
        check: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """N,D float32 numbers about these images, a row each, out of the cache or, once computed,
        into it.

        `made_from` says all that they depend on besides the images; `check` is called while another
        process computes the same. What lies in the cache is read as it is needed, not held in
        memory.

        Raises:
            UserError: the cache cannot be written.
        """
        if self.cache is None or not self.pixels.key:
            return compute()

        def _build(folder: Path) -> dict[str, Any]:
            derived = compute()
            np.save(folder / FEATURES_FILE, derived.numpy(), allow_pickle=False)
            return {"made_from": made_from, "shape": list(derived.shape)}

        def _read(folder: Path) -> Tensor:
            return torch.from_numpy(
                np.load(folder / FEATURES_FILE, mmap_mode="c", allow_pickle=False)
            )

        return self.cache.open(
            "features", f"{self.key}/{torch.__version__}/{made_from}", _build, _read, check
        )

    def arrays(self, indices: Sequence[int] | None = None) -> list[npt.NDArray[np.uint8]]:
        """The same as `images`, as a list of arrays."""
        return [image.numpy() for image in self.images(indices)]


SPLIT_TABLE = "split.tsv"  # where a run keeps it


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before its pixels are read."""

    curated: CuratedDataset
    split_names: Sequence[str]
    fingerprint: str
    cache_dir: Path
    cache_limit_gb: float

    @property
    def cache(self) -> DiskCache:
        """Where what is computed from the images is kept."""
        return DiskCache(self.cache_dir, self.cache_limit_gb)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.curated.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return tuple(self.curated.classes)

    @property
    def samples(self) -> Sequence[Sample]:
        """The images in use, sorted by name."""
        return self.curated.samples

    def labels_of(self, split: str) -> list[str]:
        """The class of each image of one split."""
        return [
            item.label
            for item, name in zip(self.samples, self.split_names, strict=True)
            if name == split
        ]

    def split_table(self) -> str:
        """Split, class, name and SHA-256 of each image, a line each, with tabs between."""
        lines = [
            f"{split}\t{item.label}\t{item.name}\t{item.record.digest}\n"
            for item, split in zip(self.samples, self.split_names, strict=True)
        ]
        return "split\tclass\timage\tsha256\n" + "".join(lines)

    @property
    def split_sha256(self) -> str:
        """SHA-256 of the split table: equal means the same images in the same splits."""
        return hashlib.sha256(self.split_table().encode()).hexdigest()

    def open(self, preprocessing: Preprocessing) -> Data:
        """The dataset with its pixels resized for `preprocessing`, from the cache or into it.

        Raises:
            UserError: an image that does not decode, or a cache that cannot be written.
        """
        return Data(self, load_pixels(self.cache, self.samples, self.fingerprint, preprocessing))


@dataclass(frozen=True)
class Data:
    """Train, valid and test of one dataset. Training and tuning never open `test`."""

    dataset: Dataset
    pixels: PixelCache

    @property
    def train(self) -> Split:
        """What is learned from."""
        return self._split(TRAIN)

    @property
    def valid(self) -> Split:
        """What chooses between epochs, settings and models."""
        return self._split(VALID)

    @property
    def test(self) -> Split:
        """What judges in the end."""
        return self._split(TEST)

    def _split(self, name: str) -> Split:
        rows = [row for row, split in enumerate(self.dataset.split_names) if split == name]
        number = {label: index for index, label in enumerate(self.dataset.classes)}
        labels = torch.tensor(
            [number[self.dataset.samples[row].label] for row in rows], dtype=torch.int64
        )
        return Split(self.pixels, rows, labels, self.dataset.cache)


def load_dataset(settings: DataSettings) -> Dataset:
    """Index, check and split of the dataset that `settings` name.

    Raises:
        UserError: whatever about the data a person must mend before training.
    """
    cache_dir = Path(settings.cache_dir).expanduser()
    found = curate(find_source(settings), cache_dir, settings.duplicates, settings.bit_depth)
    check_usable(found, settings.max_bad_fraction)
    split_names = split_items(
        found.samples, settings.split_seed, settings.valid_fraction, settings.test_fraction
    )
    _log_dataset(found, split_names)
    _check_splits(found, split_names)
    log.debug(
        "%s has %d images in use, of %s",
        found.source.name,
        len(found.samples),
        found.source.location,
    )
    return Dataset(found, split_names, found.fingerprint(), cache_dir, settings.cache_limit_gb)


def load_test_folder(settings: DataSettings) -> Dataset:
    """FolderIndex and audit of the folder that `settings` name, all its images in the test split.

    Raises:
        UserError: there is no image, or too many are bad.
    """
    cache_dir = Path(settings.cache_dir).expanduser()
    found = curate(find_source(settings), cache_dir, settings.duplicates, settings.bit_depth)
    check_bad_fraction(found, settings.max_bad_fraction)
    _log_layout(found)
    return Dataset(
        found, [TEST] * len(found.samples), found.fingerprint(), cache_dir, settings.cache_limit_gb
    )


def _check_splits(found: CuratedDataset, split_names: Sequence[str]) -> None:
    in_train = {
        item.label for item, split in zip(found.samples, split_names, strict=True) if split == TRAIN
    }
    if missing := sorted(set(found.classes) - in_train):
        raise UserError(
            f"These classes of {found.source.name} have no image in train: {', '.join(missing)}."
        )
    if VALID not in split_names:
        groups = len({item.group for item in found.samples})
        raise UserError(
            f"No image of {found.source.name} is left for the valid split: its "
            f"{len(found.samples)} images are {groups} groups, which stay whole. Add images, or "
            "change --groups or --duplicates."
        )


def _log_layout(found: CuratedDataset) -> None:
    if unused := found.describe_unused():
        log.warning("not used: %s", unused)
    for note in found.notes:
        log.warning("%s", note)


def _log_dataset(found: CuratedDataset, split_names: Sequence[str]) -> None:
    log.info("%s: %s", found.source.name, found.describe_classes())
    counts = Counter(split_names)
    log.info(
        "split: %s",
        ", ".join(f"{name} {counts[name]}" for name in (TRAIN, VALID, TEST) if counts[name]),
    )
    _log_layout(found)
    of_group: dict[str, set[str]] = {}
    for item, split in zip(found.samples, split_names, strict=True):
        if item.file.group is not None:
            of_group.setdefault(f"{item.name.partition('/')[0]}/{item.file.group}", set()).add(
                split
            )
    if torn := sorted(group for group, splits in of_group.items() if len(splits) > 1):
        log.warning("%d groups stand in two given splits or more, such as %s.", len(torn), torn[0])
    for name in (VALID, TEST):
        labels = {
            item.label
            for item, split in zip(found.samples, split_names, strict=True)
            if split == name
        }
        if labels and (without := sorted(set(found.classes) - labels)):
            log.warning("These classes have no %s images: %s", name, ", ".join(without[:10]))
    if found.conflicts:
        images = len({item.name for pair in found.conflicts for item in pair})
        log.warning(
            "%d images stand in two classes or more, or look alike there: `eyevsai data check` "
            "names them.",
            images,
        )
