"""The pixel cache: each image decoded and resized once, then read from a memory map.

An entry of the cache is made from the data's fingerprint, the decoder's version and the resize. It
holds `pixels.u8` (all images end to end, H,W,3 uint8) and `shapes.npy` (N,2 int32).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.core.errors import UserError
from eyevsai.data import decode
from eyevsai.data.curation import Sample
from eyevsai.data.disk_cache import DiskCache
from eyevsai.data.image_checks import clear_scan_cache
from eyevsai.data.parallel import parallel_map
from eyevsai.data.preprocessing import VERSION, Preprocessing

PIXELS_AT_ONCE = 16_000_000  # decoded and not yet resized, in one worker
FLAT, SHAPES = "pixels.u8", "shapes.npy"


@dataclass(frozen=True)
class PixelCache:
    """All resized images of a dataset, read as they are needed."""

    flat: npt.NDArray[np.uint8]
    shapes: npt.NDArray[np.int32]  # N,2: height and width
    offsets: npt.NDArray[np.int64]
    key: str = ""  # which images, decoded and resized how; empty for images that no cache holds

    def __len__(self) -> int:
        return len(self.shapes)

    def image(self, row: int) -> Tensor:
        """One image, H,W,3 uint8; a copy, since the map is read-only."""
        height, width = self.shapes[row]
        start = self.offsets[row]
        return torch.from_numpy(
            self.flat[start : start + 3 * height * width].reshape(height, width, 3).copy()
        )


def load_pixels(
    cache: DiskCache, items: Sequence[Sample], fingerprint: str, preprocessing: Preprocessing
) -> PixelCache:
    """The pixels of `items`, in order; decoded where the cache has them not.

    Raises:
        UserError: an image that changed since it was indexed, or a cache that cannot be written.
    """
    size = f"{preprocessing.interpolation}/{preprocessing.short_side_px}"
    key = f"{fingerprint}/{decode.VERSION}.{VERSION}/{size}"
    key += "" if preprocessing.depth is None else f"/{preprocessing.depth}"

    def _build(folder: Path) -> dict[str, Any]:
        shapes = [
            preprocessing.resized_shape(item.record.height, item.record.width) for item in items
        ]
        np.save(folder / SHAPES, np.array(shapes, dtype=np.int32), allow_pickle=False)
        _write_pixels(items, shapes, _PixelWriter(folder / FLAT, preprocessing, cache.root))
        return {"images": len(items), "preprocessing": preprocessing.to_json()}

    return cache.open("pixels", key, _build, lambda folder: _open(folder, key))


def _open(folder: Path, key: str) -> PixelCache:
    shapes = np.load(folder / SHAPES, allow_pickle=False)
    sizes = 3 * shapes.astype(np.int64).prod(axis=1)
    flat = np.memmap(folder / FLAT, dtype=np.uint8, mode="r")
    return PixelCache(flat, shapes, np.concatenate([[0], np.cumsum(sizes)[:-1]]), key)


def _write_pixels(
    items: Sequence[Sample], shapes: Sequence[tuple[int, int]], writer: _PixelWriter
) -> None:
    """All images into one file, each worker writing its own at the place where they belong."""
    ends = np.cumsum([3 * height * width for height, width in shapes], dtype=np.int64).tolist()
    with open(writer.path, "wb") as file:
        file.truncate(ends[-1])
    places = list(zip(items, [0, *ends], strict=False))
    for _ in parallel_map(writer, places, "Decoding images"):
        pass


@dataclass(frozen=True)
class _PixelWriter:
    """Decodes and resizes images that lie next to each other in the file of pixels."""

    path: Path
    preprocessing: Preprocessing
    cache_dir: Path

    def __call__(self, places: Sequence[tuple[Sample, int]]) -> None:
        with open(self.path, "r+b") as file:
            file.seek(places[0][1])
            # Decoding several before resizing them is a fifth faster: each finds its code in the
            # CPU's caches.
            for items in _group_by_pixels(item for item, _ in places):
                for picture in self._decode(items):
                    image = self.preprocessing.resize(torch.from_numpy(picture)[None])[0]
                    file.write(image.contiguous().numpy().data)

    def _decode(self, items: Sequence[Sample]) -> list[decode.Array]:
        return [
            decode.decode(_read_unchanged(item, self.cache_dir), self.preprocessing.depth)
            for item in items
        ]


def _group_by_pixels(items: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Runs of images that together have at most `PIXELS_AT_ONCE`, or of one that has more."""
    group: list[Sample] = []
    pixels = 0
    for item in items:
        size = item.record.width * item.record.height
        if group and pixels + size > PIXELS_AT_ONCE:
            yield group
            group, pixels = [], 0
        group.append(item)
        pixels += size
    yield group


def _read_unchanged(item: Sample, cache_dir: Path) -> bytes:
    try:
        content = item.file.path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{item.file.path} cannot be read any more: {error.strerror}. Run the command again."
        ) from error
    if hashlib.sha256(content).hexdigest() != item.record.digest:
        clear_scan_cache(item.file.path.parent, cache_dir)  # or the next run would find the same
        raise UserError(
            f"{item.file.path} changed while the dataset was being read. Run the command again."
        )
    return content
