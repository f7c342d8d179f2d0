"""The pixel cache: each image decoded and resized once, then read from a memory map.

A cache is a folder named by what it was made from: the data's fingerprint, the decoder's version
and the resize. It holds `pixels.u8` (all images end to end, H,W,3 uint8), `shapes.npy` (N,2 int32)
and `cache.json`, which has the SHA-256 of both. It is built under a lock and another name, then
renamed, so that a build that died leaves nothing that could be taken for a cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from eyevsai.checksum import hash_file
from eyevsai.data import decode
from eyevsai.data.inspection import Item
from eyevsai.data.preprocessing import VERSION, Preprocessing
from eyevsai.data.workers import map_chunks
from eyevsai.errors import UserError

log = logging.getLogger("eyevsai")

PIXELS_AT_ONCE = 16_000_000  # decoded and not yet resized, in one worker
FLAT, SHAPES, ABOUT, BUILDING = "pixels.u8", "shapes.npy", "cache.json", ".building-"


@dataclass(frozen=True)
class Pixels:
    """All resized images of a dataset, read as they are needed."""

    flat: npt.NDArray[np.uint8]
    shapes: npt.NDArray[np.int32]  # N,2: height and width
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shapes)

    def image(self, row: int) -> Tensor:
        """One image, H,W,3 uint8; a copy, since the map is read-only."""
        height, width = self.shapes[row]
        start = self.offsets[row]
        return torch.from_numpy(self.flat[start : start + 3 * height * width].reshape(height, width, 3).copy())


@dataclass(frozen=True)
class PixelCache:
    """The caches under one root, which together stay below a limit."""

    root: Path
    limit_gb: float

    @property
    def folder(self) -> Path:
        """Where the caches lie."""
        return self.root / "pixels"

    def load(self, items: Sequence[Item], fingerprint: str, preprocessing: Preprocessing) -> Pixels:
        """The pixels of `items`, in order; built where they are not there or damaged.

        Raises:
            UserError: an image that changed since it was indexed, or a cache that cannot be written.
        """
        text = f"{fingerprint}/{decode.VERSION}.{VERSION}/{preprocessing.interpolation}/{preprocessing.short_side_px}"
        folder = self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if folder.is_dir() and not _is_whole(folder):
                    log.warning("The pixel cache %s is damaged: building it again.", folder)
                    shutil.rmtree(folder)
                if not folder.is_dir():
                    _build(items, preprocessing, folder)
                    self._shrink(keep=folder)
                os.utime(folder)  # what was used last is deleted last
                return _open(folder)
        except OSError as error:
            raise UserError(
                f"Cannot write the pixel cache {folder}: {error.strerror or error}. Choose another --cache-root."
            ) from error

    def size_bytes(self) -> int:
        """What all caches take together."""
        return sum(map(_size, self._caches()))

    def clear(self) -> int:
        """Deletes all caches that no running build holds and returns the freed bytes."""
        return sum(map(self._delete, self._caches()))

    def _caches(self) -> list[Path]:
        """Cache folders, those unused for longest first."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(BUILDING)]
        return sorted(folders, key=lambda path: path.stat().st_mtime)

    def _shrink(self, keep: Path) -> None:
        sizes = {path: _size(path) for path in self._caches()}
        excess = sum(sizes.values()) - self.limit_gb * 1e9
        for path in sizes:
            if excess > 0 and path != keep:
                excess -= self._delete(path)

    def _delete(self, path: Path) -> int:
        try:
            with FileLock(f"{path}.lock", timeout=0):  # a process that has the map open keeps reading it
                freed = _size(path)
                shutil.rmtree(path, ignore_errors=True)
        except Timeout:  # somebody builds or checks it; waiting here, with a lock of our own, could wait for ever
            return 0
        return freed


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _is_whole(folder: Path) -> bool:
    """Whether both files are, byte by byte, what was written."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return all(about["sha256"][name] == hash_file(folder / name) for name in (FLAT, SHAPES))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _open(folder: Path) -> Pixels:
    shapes = np.load(folder / SHAPES, allow_pickle=False)
    sizes = 3 * shapes.astype(np.int64).prod(axis=1)
    flat = np.memmap(folder / FLAT, dtype=np.uint8, mode="r")
    return Pixels(flat, shapes, np.concatenate([[0], np.cumsum(sizes)[:-1]]))


def _build(items: Sequence[Item], preprocessing: Preprocessing, folder: Path) -> None:
    prefix = f"{BUILDING}{folder.name}-"
    for abandoned in folder.parent.glob(f"{prefix}*"):  # the lock is ours: whoever built there is dead
        shutil.rmtree(abandoned, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        shapes = [preprocessing.resized_shape(item.record.height, item.record.width) for item in items]
        np.save(building / SHAPES, np.array(shapes, dtype=np.int32), allow_pickle=False)
        _write_pixels(items, shapes, preprocessing, building / FLAT)
        digests = {name: hash_file(building / name) for name in (FLAT, SHAPES)}
        about = {"images": len(items), "preprocessing": preprocessing.to_json(), "sha256": digests}
        (building / ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_pixels(
    items: Sequence[Item], shapes: Sequence[tuple[int, int]], preprocessing: Preprocessing, path: Path
) -> None:
    """All images into one file, each worker writing its own at the place where they belong."""
    ends = np.cumsum([3 * height * width for height, width in shapes], dtype=np.int64).tolist()
    with open(path, "wb") as file:
        file.truncate(ends[-1])
    places = list(zip(items, [0, *ends], strict=False))
    for _ in map_chunks(_Writer(path, preprocessing), places, "Decoding images"):
        pass


@dataclass(frozen=True)
class _Writer:
    """Decodes and resizes images that lie next to each other in the file of pixels."""

    path: Path
    preprocessing: Preprocessing

    def __call__(self, places: Sequence[tuple[Item, int]]) -> None:
        with open(self.path, "r+b") as file:
            file.seek(places[0][1])
            # Decoding several before resizing them is a fifth faster: each finds its code in the CPU's caches.
            for items in _group_by_pixels(item for item, _ in places):
                for picture in [decode.decode(_read_unchanged(item)) for item in items]:
                    image = self.preprocessing.resize(torch.from_numpy(picture)[None])[0]
                    file.write(image.contiguous().numpy().data)


def _group_by_pixels(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Runs of images that together have at most `PIXELS_AT_ONCE`, or of one that has more."""
    group: list[Item] = []
    pixels = 0
    for item in items:
        size = item.record.width * item.record.height
        if group and pixels + size > PIXELS_AT_ONCE:
            yield group
            group, pixels = [], 0
        group.append(item)
        pixels += size
    yield group


def _read_unchanged(item: Item) -> bytes:
    try:
        content = item.file.path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{item.file.path} cannot be read any more: {error.strerror}. Run the command again."
        ) from error
    if hashlib.sha256(content).hexdigest() != item.record.digest:
        raise UserError(f"{item.file.path} changed while the dataset was being read. Run the command again.")
    return content
