"""Image validation: decodability, content hashes and format of each file, with a scan cache.

Each file is decoded once. The result is cached under the file's path, inode, size and times of
change, so that a second scan of a dataset reads no image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import write_error
from eyevsai.core.hashing import hash_file
from eyevsai.data import decode
from eyevsai.data.disk_cache import SCAN_CACHES
from eyevsai.data.image_folder import ImageFile

VERSION = 3
MIN_SIDE_PX = 32  # perceptual hashes of smaller images do not distinguish images of one class
MIN_CONTRAST = 4.0  # standard deviation of grey levels; plain images have no structure to hash
HASH_SIDE = 16
JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}
SUFFIXES_OF = {
    "JPEG": JPEG,
    "MPO": JPEG | {".mpo"},
    "PNG": {".png", ".apng"},
    "BMP": {".bmp"},
    "DIB": {".dib", ".bmp"},
    "GIF": {".gif"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "AVIF": {".avif", ".avifs"},
    "JPEG2000": {".jp2", ".j2k", ".jpx", ".jpf"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
    "ICO": {".ico"},
    "ICNS": {".icns"},
    "TGA": {".tga"},
    "PCX": {".pcx"},
    "DDS": {".dds"},
    "PSD": {".psd"},
    "QOI": {".qoi"},
    "SGI": {".sgi"},
    "HEIF": {".heic", ".heif"},
}


@dataclass(frozen=True)
class ImageInfo:
    """Validation result of one file.

    `digest` is the SHA-256 of the file, empty if it cannot be read. `error` is the reason why the
    file is unusable, empty if it is usable. `pixels` is the SHA-256 of the decoded image (of its
    levels, with more than 8 bits). `signature` is its perceptual hash (Zauner 2010, 256 bits in
    hexadecimal), empty for small and plain images. `kind` is the format, such as JPEG. `top`,
    `is_float`, `typical` and `low` are the fields of `decode.Range`, for images with more than 8
    bits.
    """

    digest: str
    pixels: str = ""
    signature: str = ""
    width: int = 0
    height: int = 0
    kind: str = ""
    error: str = ""
    top: float = 0.0
    is_float: bool = False
    typical: float = 0.0
    low: float = 0.0

    @property
    def range(self) -> decode.Range:
        """Range of values of the image."""
        return decode.Range(self.top, self.is_float, self.typical, self.low)


def check_images(files: Sequence[ImageFile], cache_dir: Path) -> list[ImageInfo]:
    """Return the validation result of each file, in order. Only files not in the cache are opened.

    Each folder has its own scan cache, written as soon as its files are checked: an interrupted
    check resumes, and datasets that share folders share their results.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folders = sorted({file.path.parent for file in files})
    scan_caches = {folder: _scan_cache_path(folder, cache_dir) for folder in folders}
    records = {folder: _read_scan_cache(path) for folder, path in scan_caches.items()}
    new = [file for file in files if _file_state(file) not in records[file.path.parent]]
    new.sort(key=lambda file: file.path.parent)
    new_records = iter(_check_all(new))
    for folder, group in groupby(new, key=lambda file: file.path.parent):
        records[folder] |= {_file_state(file): next(new_records) for file in group}
        _write_scan_cache(scan_caches[folder], records[folder])
    return [records[file.path.parent][_file_state(file)] for file in files]


def clear_scan_cache(folder: Path, cache_dir: Path) -> None:
    """Delete the scan cache of a folder, if it exists."""
    _scan_cache_path(folder, cache_dir).unlink(missing_ok=True)


def has_wrong_extension(file: ImageFile, record: ImageInfo) -> bool:
    """Return True if a decodable file has the suffix of another format."""
    return bool(record.kind) and file.path.suffix.lower() not in SUFFIXES_OF.get(record.kind, set())


def check_image(path: Path) -> ImageInfo:
    """Decode one file and return the result. Errors are recorded in `error`, not raised."""
    try:
        digest = hash_file(path)
        if path.stat().st_size == 0:
            return ImageInfo(digest, error="is empty")
        decoded = decode.decode_fully(path)
    except OSError as error:
        return ImageInfo("", error=f"cannot be read: {error.strerror or error}")
    except decode.ImageDecodeError as error:
        return ImageInfo(digest, error=error.reason)
    height, width = decoded.pixels.shape[:2]
    # Levels of more than 8 bits: two different dark images may both be black in 8 bits.
    pixels = decoded.levels or hash_pixels(decoded.pixels)
    value_range = decoded.range
    return ImageInfo(
        digest,
        pixels,
        _signature(decoded.pixels),
        width,
        height,
        decoded.kind,
        "",
        value_range.top,
        value_range.is_float,
        value_range.typical,
        value_range.low,
    )


def hash_pixels(picture: decode.Array) -> str:
    """Return the hexadecimal SHA-256 of a decoded image, H,W,3 uint8, including its size."""
    content = hashlib.sha256(f"{picture.shape[0]}x{picture.shape[1]}".encode())
    content.update(np.ascontiguousarray(picture).data)
    return content.hexdigest()


def _signature(picture: decode.Array) -> str:
    """Return the perceptual hash, empty for images below `MIN_SIDE_PX` or `MIN_CONTRAST`."""
    import imagehash
    from PIL import Image

    if min(picture.shape[:2]) < MIN_SIDE_PX:
        return ""
    grey = Image.fromarray(picture).convert("L").resize((64, 64), Image.Resampling.BOX)
    if np.asarray(grey).std() < MIN_CONTRAST:
        return ""
    return str(imagehash.phash(grey, hash_size=HASH_SIDE))


def _check_all(files: Sequence[ImageFile]) -> Iterable[ImageInfo]:
    if not files:
        return
    # imports torch, which is not needed if all files are in the scan cache
    from eyevsai.data.parallel import parallel_map

    for records in parallel_map(_check_chunk, files, "Checking images"):
        yield from records


def _check_chunk(files: Sequence[ImageFile]) -> list[ImageInfo]:
    return [check_image(file.path) for file in files]


def _scan_cache_path(folder: Path, cache_dir: Path) -> Path:
    key = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:24]
    return cache_dir / SCAN_CACHES / f"v{VERSION}.{decode.VERSION}-{key}.json"


def _file_state(file: ImageFile) -> str:
    """Return a cache key within a folder; it changes whenever the file does."""
    return f"{file.path.name}|{file.size_bytes}|{file.mtime_ns}|{file.ctime_ns}|{file.inode}"


def _read_scan_cache(path: Path) -> dict[str, ImageInfo]:
    """Return the cached results by file state; empty if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {state: ImageInfo(*values) for state, values in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_scan_cache(path: Path, records: dict[str, ImageInfo]) -> None:
    # Unreadable files have no digest and are not cached: they may become readable without a change
    # of size or time.
    rows = {state: astuple(record) for state, record in records.items() if record.digest}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(rows))
    except OSError as error:
        raise write_error(path, error, "Choose another --cache-dir.") from error
