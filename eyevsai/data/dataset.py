"""Datasets for training and evaluation: curated images, their split and their pixels."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand
from eyevsai.data.catalog import find_source
from eyevsai.data.curation import CuratedDataset, Sample, check_bad_fraction, check_usable, curate
from eyevsai.data.disk_cache import FEATURES, DiskCache
from eyevsai.data.folder_layout import TEST, TRAIN, VALID
from eyevsai.data.pixel_cache import PixelCache, load_pixels
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.data.split import split_items

log = logging.getLogger("eyevsai")

FEATURES_FILE = "features.npy"


@dataclass(frozen=True)
class Split:
    """The images and labels of one split.

    Attributes:
        pixels: the resized images of the whole dataset.
        rows: indices of the split's N images in `pixels`.
        labels: class indices, N int64.
        cache: cache for features of the images; None disables it.
    """

    pixels: PixelCache
    rows: Sequence[int]
    labels: Tensor
    cache: DiskCache | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def key(self) -> str:
        """Cache key of the images: identifies their content, order, decoding and resizing."""
        return (
            f"{self.pixels.key}/{hashlib.sha256(json.dumps(list(self.rows)).encode()).hexdigest()}"
        )

    def images(self, indices: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Yield the images at `indices` of this split (default: all), each H,W,3 uint8."""
        for index in range(len(self)) if indices is None else indices:
            yield self.pixels.image(self.rows[index])

    def batch(self, indices: Sequence[int]) -> Tensor | list[Tensor]:
        """Return the images at `indices` of this split, as `PixelCache.images` does."""
        return self.pixels.images([self.rows[index] for index in indices])

    def cached_features(
        self,
        features_key: str,
        compute: Callable[[], Tensor],
        check: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Return features of the images from the cache; compute and store them if missing.

        Without a cache, or for images without a cache key, they are always computed.

        Args:
            features_key: identifies everything that the features depend on besides the images.
            compute: returns the features, N,D float32.
            check: called before each attempt to lock the cache entry, thus repeatedly while another
                process computes the same features; may raise.

        Returns:
            N,D float32, a row for each image. Cached features are memory-mapped.

        Raises:
            UserError: the cache cannot be written.
        """
        if self.cache is None or not self.pixels.key:
            return compute()

        def _build(folder: Path) -> dict[str, Any]:
            features = compute()
            np.save(folder / FEATURES_FILE, features.numpy(), allow_pickle=False)
            return {"made_from": features_key, "shape": list(features.shape)}

        def _read(folder: Path) -> Tensor:
            return torch.from_numpy(
                np.load(folder / FEATURES_FILE, mmap_mode="c", allow_pickle=False)
            )

        return self.cache.open(
            FEATURES, f"{self.key}/{torch.__version__}/{features_key}", _build, _read, check
        )

    def arrays(self, indices: Sequence[int] | None = None) -> SplitArrays:
        """Return the images at `indices` (default: all), each H,W,3 uint8, read on access."""
        return SplitArrays(
            self.pixels, self.rows if indices is None else [self.rows[i] for i in indices]
        )


@dataclass(frozen=True)
class SplitArrays(Sequence[npt.NDArray[np.uint8]]):
    """Images of a split as a sequence; each is read from the pixel cache when it is accessed.

    A slice is such a sequence, too, so that no split is in memory at once.

    Attributes:
        pixels: the resized images of the whole dataset.
        rows: indices of the images in `pixels`.
    """

    pixels: PixelCache
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, index: slice) -> SplitArrays: ...

    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8] | SplitArrays:
        if isinstance(index, slice):
            return SplitArrays(self.pixels, self.rows[index])
        return self.pixels.image(self.rows[index]).numpy()


SPLIT_TABLE = "split.tsv"  # artifact of a run, with the text of `Dataset.split_table`


@dataclass(frozen=True)
class Dataset:
    """A curated and split dataset, before its pixels are loaded.

    Attributes:
        curated: the images in use, and the findings of the checks.
        split_names: `train`, `valid` or `test` for each image in use.
        fingerprint: SHA-256 of the images in use, as of `CuratedDataset.fingerprint`.
        cache_dir: folder of the disk cache.
        cache_limit_gb: size limit of the disk cache, in 10^9 bytes.
    """

    curated: CuratedDataset
    split_names: Sequence[str]
    fingerprint: str
    cache_dir: Path
    cache_limit_gb: float

    @property
    def cache(self) -> DiskCache:
        """Disk cache for pixels and features of the images."""
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
        """Return the class name of each image of one split."""
        return [
            sample.label
            for sample, name in zip(self.samples, self.split_names, strict=True)
            if name == split
        ]

    def median_short_side(self) -> float:
        """Return the median of the images' shorter sides, in pixels."""
        records = (sample.record for sample in self.samples)
        return median(min(record.width, record.height) for record in records)

    def split_table(self) -> str:
        """Return a tab-separated table with split, class, name and SHA-256 of each image."""
        lines = [
            f"{split}\t{sample.label}\t{sample.name}\t{sample.record.digest}\n"
            for sample, split in zip(self.samples, self.split_names, strict=True)
        ]
        return "split\tclass\timage\tsha256\n" + "".join(lines)

    @property
    def split_sha256(self) -> str:
        """SHA-256 of the split table: it identifies the images and their splits."""
        return hashlib.sha256(self.split_table().encode()).hexdigest()

    def open(self, preprocessing: Preprocessing) -> Data:
        """Return the dataset with its pixels, resized for `preprocessing` and cached on disk.

        Raises:
            UserError: an image does not decode or has changed, or the cache cannot be written.
        """
        return Data(self, load_pixels(self.cache, self.samples, self.fingerprint, preprocessing))


@dataclass(frozen=True)
class Data:
    """Train, valid and test split of one dataset. Training and tuning never read `test`."""

    dataset: Dataset
    pixels: PixelCache

    @property
    def train(self) -> Split:
        """Training split."""
        return self._split(TRAIN)

    @property
    def valid(self) -> Split:
        """Validation split, which selects epochs, settings and models."""
        return self._split(VALID)

    @property
    def test(self) -> Split:
        """Test split, for the final evaluation."""
        return self._split(TEST)

    def _split(self, name: str) -> Split:
        rows = [row for row, split in enumerate(self.dataset.split_names) if split == name]
        index_of = {label: index for index, label in enumerate(self.dataset.classes)}
        labels = torch.tensor(
            [index_of[self.dataset.samples[row].label] for row in rows], dtype=torch.int64
        )
        return Split(self.pixels, rows, labels, self.dataset.cache)


def load_dataset(settings: DataSettings, *, logs_counts: bool = True) -> Dataset:
    """Index, check and split the dataset that `settings` select, and log a summary.

    Args:
        settings: settings of the dataset.
        logs_counts: log the numbers of images, too; otherwise warnings only.

    Raises:
        UserError: the dataset is missing or cannot be used for training: too many bad files, too
            few images or classes, a class without training images, or an empty valid split.
    """
    cache_dir = expand(settings.cache_dir)
    curated = curate(find_source(settings), cache_dir, settings.duplicates, settings.bit_depth)
    check_usable(curated, settings.max_bad_fraction)
    split_names = split_items(
        curated.samples, settings.split_seed, settings.valid_fraction, settings.test_fraction
    )
    if logs_counts:
        _log_counts(curated, split_names)
    _log_warnings(curated, split_names)
    _check_splits(curated, split_names)
    log.debug(
        "%s: using %d images from %s",
        curated.source.name,
        len(curated.samples),
        curated.source.location,
    )
    return Dataset(curated, split_names, curated.fingerprint(), cache_dir, settings.cache_limit_gb)


def load_test_folder(settings: DataSettings) -> Dataset:
    """Index and check the dataset that `settings` select, with all images in the test split.

    Raises:
        UserError: the dataset is missing or has no images, or too many files are bad.
    """
    cache_dir = expand(settings.cache_dir)
    curated = curate(find_source(settings), cache_dir, settings.duplicates, settings.bit_depth)
    check_bad_fraction(curated, settings.max_bad_fraction)
    _log_layout(curated)
    split_names = [TEST] * len(curated.samples)
    return Dataset(curated, split_names, curated.fingerprint(), cache_dir, settings.cache_limit_gb)


def _check_splits(curated: CuratedDataset, split_names: Sequence[str]) -> None:
    train_classes = {
        sample.label
        for sample, split in zip(curated.samples, split_names, strict=True)
        if split == TRAIN
    }
    if missing := sorted(set(curated.classes) - train_classes):
        raise UserError(
            f"These classes of {curated.source.name} have no images in the train split: "
            f"{', '.join(missing)}. Add images of them to it."
        )
    if VALID not in split_names:
        num_groups = len({sample.group for sample in curated.samples})
        raise UserError(
            f"No image of {curated.source.name} is left for the valid split: its "
            f"{len(curated.samples)} images form {num_groups} groups, which are never divided. Add "
            "images, or change --groups or --duplicates."
        )


def _log_layout(curated: CuratedDataset) -> None:
    if unused := curated.describe_unused():
        log.warning("not used: %s", unused)
    for note in curated.notes:
        log.warning("%s", note)


def _log_counts(curated: CuratedDataset, split_names: Sequence[str]) -> None:
    log.info("%s: %s", curated.source.name, curated.describe_classes())
    counts = Counter(split_names)
    log.info(
        "split: %s",
        ", ".join(f"{name} {counts[name]}" for name in (TRAIN, VALID, TEST) if counts[name]),
    )


def _log_warnings(curated: CuratedDataset, split_names: Sequence[str]) -> None:
    _log_layout(curated)
    splits_of: dict[str, set[str]] = {}
    for sample, split in zip(curated.samples, split_names, strict=True):
        if sample.file.group is not None:
            group = f"{sample.name.partition('/')[0]}/{sample.file.group}"
            splits_of.setdefault(group, set()).add(split)
    if divided := sorted(group for group, splits in splits_of.items() if len(splits) > 1):
        log.warning(
            "%d groups are divided between provided splits, such as %s.", len(divided), divided[0]
        )
    for name in (VALID, TEST):
        labels = {
            sample.label
            for sample, split in zip(curated.samples, split_names, strict=True)
            if split == name
        }
        if labels and (missing := sorted(set(curated.classes) - labels)):
            log.warning("These classes have no %s images: %s", name, ", ".join(missing[:10]))
    if curated.conflicts:
        num_images = len({sample.name for pair in curated.conflicts for sample in pair})
        log.warning(
            "%d images are duplicates or near-duplicates of images of another class; "
            "`eyevsai data check` lists them.",
            num_images,
        )
