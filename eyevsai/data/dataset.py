"""A dataset, ready to be learned from: index, split and pixels in one value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.data.catalogue import find_source
from eyevsai.data.index import Item, fingerprint, index_images
from eyevsai.data.pixels import Pixels, load_pixels
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.data.split import TEST, TRAIN, VALID, split_items
from eyevsai.errors import UserError


@dataclass(frozen=True)
class Split:
    """The images of one split, as rows of the dataset's pixels."""

    pixels: Pixels
    rows: Sequence[int]
    labels: Tensor  # N int64

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, places: Sequence[int] | None = None) -> Iterator[Tensor]:
        """The images at `places` of this split (all by default), each H,W,3 uint8."""
        for place in range(len(self)) if places is None else places:
            yield self.pixels.image(self.rows[place])

    def arrays(self, places: Sequence[int] | None = None) -> list[npt.NDArray[np.uint8]]:
        """The same as `images`, as a list of arrays."""
        return [image.numpy() for image in self.images(places)]


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before a pixel is read."""

    name: str
    folders: tuple[Path, ...]
    classes: tuple[str, ...]
    fingerprint: str
    items: Sequence[Item]
    split_names: Sequence[str]
    cache_root: Path

    def open(self, preprocessing: Preprocessing) -> Data:
        """The dataset with its pixels resized for `preprocessing`, from the cache or into it.

        Raises:
            UserError: an image that does not decode, or a cache that cannot be written.
        """
        return Data(self, load_pixels(self.items, self.fingerprint, preprocessing, self.cache_root))


@dataclass(frozen=True)
class Data:
    """Train, valid and test of one dataset. Training and tuning never open `test`."""

    dataset: Dataset
    pixels: Pixels

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
        labels = torch.tensor([number[self.dataset.items[row].label] for row in rows], dtype=torch.int64)
        return Split(self.pixels, rows, labels)


def load_dataset(settings: DataSettings, seed: int) -> Dataset:
    """Index and split of the dataset that `settings` name.

    Raises:
        UserError: whatever about the data a person must mend before training.
    """
    source = find_source(settings)
    items = index_images(source)
    split_names = split_items(items, seed, settings.valid_fraction, settings.test_fraction)
    classes = tuple(sorted({item.label for item in items}))
    for needed in (TRAIN, VALID):
        present = {item.label for item, split in zip(items, split_names, strict=True) if split == needed}
        if needed == TRAIN and (missing := set(classes) - present):
            raise UserError(f"These classes of {source.name} have no image in train: {', '.join(sorted(missing))}.")
        if not present:
            raise UserError(f"The {needed} split of {source.name} is empty. Put images into its folder.")
    return Dataset(
        name=source.name,
        folders=tuple(source.parts.values()),
        classes=classes,
        fingerprint=fingerprint(items),
        items=items,
        split_names=split_names,
        cache_root=Path(settings.cache_root).expanduser(),
    )
