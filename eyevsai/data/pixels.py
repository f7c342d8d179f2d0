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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from eyevsai.checksum import hash_file
from eyevsai.data import decode
from eyevsai.data.audit import hash_pixels
from eyevsai.data.inspection import Item
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.errors import UserError
from eyevsai.progress import track

log = logging.getLogger("eyevsai")

DECODE_AHEAD = 64  # images in flight: bounds memory, whatever the size of the dataset
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
        text = f"{fingerprint}/{decode.VERSION}/{preprocessing.interpolation}/{preprocessing.short_side_px}"
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
        with FileLock(f"{path}.lock"):  # a process that has the map open keeps reading it
            freed = _size(path)
            shutil.rmtree(path, ignore_errors=True)
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
        shapes = _write_pixels(items, preprocessing, building / FLAT)
        np.save(building / SHAPES, np.array(shapes, dtype=np.int32), allow_pickle=False)
        digests = {name: hash_file(building / name) for name in (FLAT, SHAPES)}
        about = {"images": len(items), "preprocessing": preprocessing.to_json(), "sha256": digests}
        (building / ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_pixels(items: Sequence[Item], preprocessing: Preprocessing, path: Path) -> list[tuple[int, int]]:
    def _read(item: Item) -> npt.NDArray[np.uint8]:
        picture = decode.decode(item.file.path)
        if hash_pixels(picture) != item.record.pixels:
            raise UserError(f"{item.file.path} changed while the dataset was being read. Run the command again.")
        return preprocessing.resize(torch.from_numpy(picture)[None])[0].contiguous().numpy()

    shapes = []
    with open(path, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = track(range(0, len(items), DECODE_AHEAD), "Decoding images", unit=DECODE_AHEAD, total=len(items))
        for start in progress:
            for image in pool.map(_read, items[start : start + DECODE_AHEAD]):
                shapes.append((image.shape[0], image.shape[1]))
                file.write(image.data)
    return shapes
