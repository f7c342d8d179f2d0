"""The pixel cache: each image decoded and resized once, then read from a memory map.

A cache is a folder named by what it was made from: the data's fingerprint, the decoder's version
and the resize. It holds `pixels.u8` (all images end to end, H,W,3 uint8), `shapes.npy` (N,2 int32)
and `cache.json`. It is built under another name and renamed, so a folder of this name is whole.
"""

from __future__ import annotations

import hashlib
import json
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

from eyevsai.data import decode
from eyevsai.data.index import Item
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.errors import UserError
from eyevsai.progress import track

DECODE_AHEAD = 64  # images in flight: bounds memory, whatever the size of the dataset


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


def load_pixels(items: Sequence[Item], digest: str, preprocessing: Preprocessing, cache_root: Path) -> Pixels:
    """The cached pixels of `items`, built first where they are not there yet.

    Raises:
        UserError: an image that does not decode, or a cache folder that cannot be written.
    """
    text = f"{digest}/{decode.VERSION}/{preprocessing.interpolation}/{preprocessing.short_side_px}"
    folder = cache_root / "pixels" / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    _build(items, preprocessing, folder)
        except OSError as error:
            raise UserError(
                f"Cannot write the pixel cache {folder}: {error.strerror or error}. Choose another --cache-root."
            ) from error
    return _open(folder)


def _open(folder: Path) -> Pixels:
    shapes = np.load(folder / "shapes.npy", allow_pickle=False)
    sizes = 3 * shapes.astype(np.int64).prod(axis=1)
    flat = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r")
    return Pixels(flat, shapes, np.concatenate([[0], np.cumsum(sizes)[:-1]]))


def _build(items: Sequence[Item], preprocessing: Preprocessing, folder: Path) -> None:
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        shapes = _write_pixels(items, preprocessing, building / "pixels.u8")
        np.save(building / "shapes.npy", np.array(shapes, dtype=np.int32), allow_pickle=False)
        about = {"images": len(items), "preprocessing": preprocessing.to_json(), "decoder": decode.VERSION}
        (building / "cache.json").write_text(json.dumps(about, indent=2))
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_pixels(items: Sequence[Item], preprocessing: Preprocessing, path: Path) -> list[tuple[int, int]]:
    def read(item: Item) -> npt.NDArray[np.uint8]:
        images = torch.from_numpy(decode.decode(item.path))[None]
        return preprocessing.resize(images)[0].contiguous().numpy()

    shapes = []
    with open(path, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = track(range(0, len(items), DECODE_AHEAD), "Decoding images", unit=DECODE_AHEAD, total=len(items))
        for start in progress:
            for image in pool.map(read, items[start : start + DECODE_AHEAD]):
                shapes.append((image.shape[0], image.shape[1]))
                file.write(image.data)
    return shapes
