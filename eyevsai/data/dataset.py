"""A dataset, ready to be learned from: index, split and pixels in one value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Data:
    """Train, valid and test of one dataset. Training and tuning never open `test`."""

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    items: Sequence[Item]
    split_names: Sequence[str]
    pixels: Pixels

    def split(self, name: str) -> Split:
        """One split by name; an empty one has no rows."""
        rows = [row for row, split in enumerate(self.split_names) if split == name]
        number = {label: index for index, label in enumerate(self.classes)}
        labels = torch.tensor([number[self.items[row].label] for row in rows], dtype=torch.int64)
        return Split(self.pixels, rows, labels)

    @property
    def train(self) -> Split:
        """What is learned from."""
        return self.split(TRAIN)

    @property
    def valid(self) -> Split:
        """What chooses between epochs, settings and models."""
        return self.split(VALID)

    @property
    def test(self) -> Split:
        """What judges in the end."""
        return self.split(TEST)


def load_data(settings: DataSettings, seed: int, preprocessing: Preprocessing) -> Data:
    """Index, split and pixels of the dataset that `settings` name.

    Raises:
        UserError: whatever about the data a person must mend before training.
    """
    source = find_source(settings)
    items = index_images(source)
    split_names = split_items(items, seed, settings.valid_fraction, settings.test_fraction)
    classes = tuple(sorted({item.label for item in items}))
    untrained = set(classes) - {item.label for item, split in zip(items, split_names, strict=True) if split == TRAIN}
    if untrained:
        raise UserError(f"These classes of {source.name} have no image in train: {', '.join(sorted(untrained))}.")
    digest = fingerprint(items)
    pixels = load_pixels(items, digest, preprocessing, Path(settings.cache_root).expanduser())
    return Data(source.name, classes, digest, items, split_names, pixels)
