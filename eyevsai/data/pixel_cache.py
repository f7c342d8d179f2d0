"""Pixel cache: each image is decoded and resized once, then read from a memory map.

The key of a cache entry is the data's fingerprint, the versions of decoder and resize, and the
resize's settings. The entry has the files `pixels.u8` (all images, H,W,3 uint8, concatenated) and
`shapes.npy` (N,2 int32).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.core.errors import UserError
from eyevsai.data import decode
from eyevsai.data.curation import Sample
from eyevsai.data.disk_cache import PIXELS, DiskCache
from eyevsai.data.image_checks import clear_scan_cache
from eyevsai.data.parallel import parallel_map
from eyevsai.data.preprocessing import VERSION, Preprocessing

MAX_DECODED_PIXELS = 16_000_000  # of images decoded but not yet resized, in one worker
FLAT, SHAPES = "pixels.u8", "shapes.npy"


@dataclass(frozen=True)
class PixelCache:
    """All resized images of a dataset, read on access."""

    flat: npt.NDArray[np.uint8]
    shapes: npt.NDArray[np.int32]  # N,2: height and width
    offsets: npt.NDArray[np.int64]  # N: first index of each image in `flat`
    key: str = ""  # key of images and preprocessing; empty for images outside of a cache

    def __len__(self) -> int:
        return len(self.shapes)

    def image(self, row: int) -> Tensor:
        """Return a copy of one image, H,W,3 uint8; the memory map is read-only."""
        height, width = self.shapes[row]
        start = self.offsets[row]
        return torch.from_numpy(
            self.flat[start : start + 3 * height * width].reshape(height, width, 3).copy()
        )

    def images(self, rows: Sequence[int]) -> Tensor | list[Tensor]:
        """Return copies of images: N,H,W,3 uint8 if all of the cache have one shape, else H,W,3."""
        if self._stacked is None:
            return [self.image(row) for row in rows]
        return torch.from_numpy(self._stacked[np.asarray(rows, dtype=np.int64)])

    @cached_property
    def _stacked(self) -> npt.NDArray[np.uint8] | None:
        """All images, N,H,W,3; None if their shapes differ."""
        height, width = self.shapes[0].tolist()
        starts = 3 * height * width * np.arange(len(self), dtype=np.int64)
        if (self.shapes != self.shapes[0]).any() or (self.offsets != starts).any():
            return None
        return np.asarray(self.flat).reshape(-1, height, width, 3)


def load_pixels(
    cache: DiskCache, items: Sequence[Sample], fingerprint: str, preprocessing: Preprocessing
) -> PixelCache:
    """Return the resized images of `items`, in order. Build the cache entry if it is missing.

    Args:
        cache: the disk cache.
        items: samples of the dataset.
        fingerprint: fingerprint of the dataset, part of the key.
        preprocessing: its resize is applied.

    Raises:
        UserError: an image changed since it was indexed, or the cache cannot be written.
    """
    key = _key(fingerprint, preprocessing)

    def _build(folder: Path) -> dict[str, Any]:
        shapes = [
            preprocessing.resized_shape(item.record.height, item.record.width) for item in items
        ]
        np.save(folder / SHAPES, np.array(shapes, dtype=np.int32), allow_pickle=False)
        _write_pixels(items, shapes, _PixelWriter(folder / FLAT, preprocessing, cache.root))
        return {"images": len(items), "preprocessing": preprocessing.to_json()}

    return cache.open(PIXELS, key, _build, lambda folder: _open(folder, key))


def is_cached(cache: DiskCache, fingerprint: str, preprocessing: Preprocessing) -> bool:
    """Return True if `load_pixels` finds the images in the cache."""
    return cache.contains(PIXELS, _key(fingerprint, preprocessing))


def resize_sample(item: Sample, preprocessing: Preprocessing, cache_dir: Path) -> Tensor:
    """Return one image, decoded and resized, H,W,3 uint8.

    Raises:
        UserError: the image changed since it was indexed.
    """
    picture = decode.decode(_read_unchanged(item, cache_dir), preprocessing.depth)
    return preprocessing.resize(torch.from_numpy(picture)[None])[0]


def _key(fingerprint: str, preprocessing: Preprocessing) -> str:
    size = f"{preprocessing.interpolation}/{preprocessing.short_side_px}"
    key = f"{fingerprint}/{decode.VERSION}.{VERSION}/{size}"
    return key if preprocessing.depth is None else f"{key}/{preprocessing.depth}"


def _open(folder: Path, key: str) -> PixelCache:
    shapes = np.load(folder / SHAPES, allow_pickle=False)
    sizes = 3 * shapes.astype(np.int64).prod(axis=1)
    flat = np.memmap(folder / FLAT, dtype=np.uint8, mode="r")
    return PixelCache(flat, shapes, np.concatenate([[0], np.cumsum(sizes)[:-1]]), key)


def _write_pixels(
    items: Sequence[Sample], shapes: Sequence[tuple[int, int]], writer: _PixelWriter
) -> None:
    """Write all images into one file; each worker writes a chunk at its offset."""
    ends = np.cumsum([3 * height * width for height, width in shapes], dtype=np.int64).tolist()
    with open(writer.path, "wb") as file:
        file.truncate(ends[-1])
    targets = list(zip(items, [0, *ends], strict=False))
    for _ in parallel_map(writer, targets, "Decoding images"):
        pass


@dataclass(frozen=True)
class _PixelWriter:
    """Task that decodes and resizes consecutive images, and writes them to the pixel file."""

    path: Path
    preprocessing: Preprocessing
    cache_dir: Path

    def __call__(self, targets: Sequence[tuple[Sample, int]]) -> None:
        """Write images to the pixel file; each has its offset in bytes."""
        with open(self.path, "r+b") as file:
            file.seek(targets[0][1])
            # Decoding several images before resizing them is 20 % faster: the code of each step
            # stays in the CPU's caches.
            for items in _group_by_pixels(item for item, _ in targets):
                for picture in self._decode(items):
                    image = self.preprocessing.resize(torch.from_numpy(picture)[None])[0]
                    file.write(image.contiguous().numpy().data)

    def _decode(self, items: Sequence[Sample]) -> list[decode.Array]:
        return [
            decode.decode(_read_unchanged(item, self.cache_dir), self.preprocessing.depth)
            for item in items
        ]


def _group_by_pixels(items: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield consecutive images of at most `MAX_DECODED_PIXELS` in total, or one larger image."""
    group: list[Sample] = []
    pixels = 0
    for item in items:
        size = item.record.width * item.record.height
        if group and pixels + size > MAX_DECODED_PIXELS:
            yield group
            group, pixels = [], 0
        group.append(item)
        pixels += size
    yield group


def _read_unchanged(item: Sample, cache_dir: Path) -> bytes:
    """Return the content of an image file; raise UserError if it changed since it was indexed."""
    try:
        content = item.file.path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{item.file.path} can no longer be read: {error.strerror}. Run the command again."
        ) from error
    if hashlib.sha256(content).hexdigest() != item.record.digest:
        clear_scan_cache(item.file.path.parent, cache_dir)  # else the next run fails, too
        raise UserError(
            f"{item.file.path} changed while the dataset was being read. Run the command again."
        )
    return content
