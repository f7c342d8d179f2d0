"""What is in each file: does it decode, what does it show, is it what its name says.

A file is decoded once and remembered by its path, inode, size and times of change, so that a second
look at a dataset only asks the file system.
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
MIN_SIDE_PX = 32  # below it, images of one kind are too alike for a perceptual hash to tell apart
MIN_CONTRAST = 4.0  # standard deviation of grey levels; a plain area has no structure to hash
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
    """What was found in one file; `error` is the reason why it cannot be used, if it cannot.

    `pixels` is the SHA-256 of the decoded picture, `signature` its perceptual hash (Zauner 2010,
    256 bits as hexadecimal text), absent for small and plain images. `top`, `is_float`, `typical`
    and `low` are the range of an image with more than 8 bits: see `decode.Range`.
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
        """The range of the image."""
        return decode.Range(self.top, self.is_float, self.typical, self.low)


def check_images(files: Sequence[ImageFile], cache_dir: Path) -> list[ImageInfo]:
    """The record of each file, in order; those that were looked at before are not opened.

    Each folder has a scan cache of its own, written once its files are checked: a check that was
    interrupted resumes where it stopped, and datasets that share folders share their records.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folders = sorted({file.path.parent for file in files})
    scan_caches = {folder: _scan_cache_path(folder, cache_dir) for folder in folders}
    known = {folder: _read_scan_cache(path) for folder, path in scan_caches.items()}
    new = [file for file in files if _file_state(file) not in known[file.path.parent]]
    new.sort(key=lambda file: file.path.parent)
    examined = iter(_check_all(new))
    for folder, group in groupby(new, key=lambda file: file.path.parent):
        known[folder] |= {_file_state(file): next(examined) for file in group}
        _write_scan_cache(scan_caches[folder], known[folder])
    return [known[file.path.parent][_file_state(file)] for file in files]


def clear_scan_cache(folder: Path, cache_dir: Path) -> None:
    """Delete the scan cache of a folder in which a file has changed."""
    _scan_cache_path(folder, cache_dir).unlink(missing_ok=True)


def has_wrong_extension(file: ImageFile, record: ImageInfo) -> bool:
    """Whether a file that decodes is of another format than its name says."""
    return bool(record.kind) and file.path.suffix.lower() not in SUFFIXES_OF.get(record.kind, set())


def check_image(path: Path) -> ImageInfo:
    """Opens and decodes one file; whatever is wrong with it is in the record, never raised."""
    try:
        digest = hash_file(path)
        if path.stat().st_size == 0:
            return ImageInfo(digest, error="the file is empty")
        decoded = decode.decode_fully(path)
    except OSError as error:
        return ImageInfo("", error=f"cannot be read: {error.strerror or error}")
    except decode.ImageDecodeError as error:
        return ImageInfo(digest, error=str(error).removeprefix(f"{path} "))
    height, width = decoded.pixels.shape[:2]
    # levels: two dark images may look black, and not be equal
    pixels = decoded.levels or hash_pixels(decoded.pixels)
    found = decoded.range
    return ImageInfo(
        digest,
        pixels,
        _signature(decoded.pixels),
        width,
        height,
        decoded.kind,
        "",
        found.top,
        found.is_float,
        found.typical,
        found.low,
    )


def hash_pixels(picture: decode.Array) -> str:
    """SHA-256 of a decoded picture, H,W,3 uint8, its size included."""
    content = hashlib.sha256(f"{picture.shape[0]}x{picture.shape[1]}".encode())
    content.update(np.ascontiguousarray(picture).data)
    return content.hexdigest()


def _signature(picture: decode.Array) -> str:
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
    # imports torch, which a second look does without
    from eyevsai.data.parallel import parallel_map

    for records in parallel_map(_check_chunk, files, "Looking at images"):
        yield from records


def _check_chunk(files: Sequence[ImageFile]) -> list[ImageInfo]:
    return [check_image(file.path) for file in files]


def _scan_cache_path(folder: Path, cache_dir: Path) -> Path:
    key = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:24]
    return cache_dir / SCAN_CACHES / f"v{VERSION}.{decode.VERSION}-{key}.json"


def _file_state(file: ImageFile) -> str:
    """What tells one state of a file from another within its folder."""
    return f"{file.path.name}|{file.size_bytes}|{file.mtime_ns}|{file.ctime_ns}|{file.inode}"


def _read_scan_cache(path: Path) -> dict[str, ImageInfo]:
    """What an earlier look wrote down; nothing when it is not there or torn."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {mark: ImageInfo(*values) for mark, values in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_scan_cache(path: Path, records: dict[str, ImageInfo]) -> None:
    # What could not be read may be readable next time, with no sign of it in size or time.
    kept = {state: astuple(record) for state, record in records.items() if record.digest}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(kept))
    except OSError as error:
        raise write_error(path, error, "Choose another --cache-dir.") from error
