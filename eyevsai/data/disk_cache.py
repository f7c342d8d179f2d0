"""Disk cache for results that are expensive to compute.

An entry is a folder named by a hash of its key. It is built under a lock and a temporary name, then
renamed, so that an interrupted build never leaves an incomplete entry. Its `cache.json` has the
SHA-256 of each of its files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eyevsai.core.errors import write_error
from eyevsai.core.hashing import hash_file
from eyevsai.core.locks import releasing, try_lock, waiting_for

log = logging.getLogger("eyevsai")

PIXELS, FEATURES, MODELS = "pixels", "features", "models"
KINDS = (PIXELS, FEATURES, MODELS)
SCAN_CACHES = "audit"  # folder for the results of image checks and duplicate searches
ABOUT, PARTIAL = "cache.json", ".building-"
WAIT_S = 1.0  # between attempts to acquire the lock of an entry

T = TypeVar("T")


@dataclass(frozen=True)
class DiskCache:
    """The cache entries below one folder, with a limit on their total size.

    Attributes:
        root: folder of the cache.
        limit_gb: when an entry is added and the total exceeds this size (in 10^9 bytes), the least
            recently used entries are deleted.
        evicted: kinds of entries that may be deleted for the limit.
    """

    root: Path
    limit_gb: float
    evicted: tuple[str, ...] = KINDS

    def open(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], Mapping[str, Any]],
        read: Callable[[Path], T],
        check: Callable[[], None] = lambda: None,
        *,
        fresh: bool = False,
    ) -> T:
        """Return the content of an entry; build the entry first if it is missing or damaged.

        Other processes that open the same entry at the same time wait until it is built.

        Args:
            kind: one of KINDS, the folder of the entry.
            key: identifies the entry: everything that its content depends on.
            build: fills an empty folder and returns values to store in `cache.json`.
            read: returns the content of the entry's folder.
            check: called before each attempt to lock the entry, once per WAIT_S; may raise.
            fresh: build the entry again even if it exists.

        Returns:
            The result of `read`.

        Raises:
            UserError: the cache cannot be written.
        """
        folder = self._folder(kind, key)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder, check):
                if folder.is_dir() and not _is_complete(folder):
                    log.warning("Cache entry %s is damaged; rebuilding it.", folder)
                    shutil.rmtree(folder)
                if fresh:
                    shutil.rmtree(folder, ignore_errors=True)
                log.debug(
                    "%s is %s",
                    folder,
                    "in the cache" if folder.is_dir() else "not in the cache; computing it",
                )
                if not folder.is_dir():
                    _build(folder, build)
                    self._evict(keep=folder)
                os.utime(folder)  # eviction orders entries by this time
                return read(folder)
        except OSError as error:
            raise write_error(folder, error, "Choose another --cache-dir.") from error

    def contains(self, kind: str, key: str) -> bool:
        """Return True if an entry exists, and is complete."""
        folder = self._folder(kind, key)
        return folder.is_dir() and _is_complete(folder)

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / hashlib.sha256(key.encode()).hexdigest()[:32]

    def size_bytes(self) -> int:
        """Return the total size of all entries and scan caches."""
        return sum(map(_folder_size, [*self._entries(), self.root / SCAN_CACHES]))

    def clear(self) -> int:
        """Delete the scan caches and all entries that are not locked; return the freed bytes."""
        scan_caches = self.root / SCAN_CACHES
        freed = _folder_size(scan_caches)
        shutil.rmtree(scan_caches, ignore_errors=True)
        return freed + sum(map(self._delete, self._entries()))

    def _entries(self) -> list[Path]:
        """Return the folders of all entries, least recently used first."""
        kinds = [self.root / kind for kind in KINDS if (self.root / kind).is_dir()]
        folders = [path for kind in kinds for path in kind.iterdir() if path.is_dir()]
        return sorted(
            (path for path in folders if not path.name.startswith(PARTIAL)), key=_last_used
        )

    def _evict(self, keep: Path) -> None:
        sizes = {path: _folder_size(path) for path in self._entries()}
        excess = sum(sizes.values()) - self.limit_gb * 1e9
        for path in sizes:
            if excess > 0 and path != keep and path.parent.name in self.evicted:
                excess -= self._delete(path)

    def _delete(self, path: Path) -> int:
        # Waiting for the lock could deadlock: the caller may hold the lock of another entry.
        lock = try_lock(Path(f"{path}.lock"))
        if lock is None:
            return 0
        with releasing(lock):
            freed = _folder_size(path)
            # processes that have its files open can continue to read them
            shutil.rmtree(path, ignore_errors=True)
        return freed


@contextmanager
def _locked(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    is_logged = False

    def wait(has_failed: bool) -> None:
        """Call `check`, and log once that another process builds the entry."""
        nonlocal is_logged
        check()
        if has_failed and not is_logged:
            log.info("Waiting for another process that is computing %s", folder)
            is_logged = True

    with waiting_for(Path(f"{folder}.lock"), WAIT_S, wait):
        yield


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process deleted the folder
        return 0.0


def _folder_size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in _list_files(folder).values())
    except OSError:
        return 0


def _list_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by relative path, including symbolic links."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _is_complete(folder: Path) -> bool:
    """Return True if the entry has exactly the files that were written, with equal checksums."""
    try:
        digests = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["sha256"]
        files = _list_files(folder)
        del files[ABOUT]
        return bool(digests) and {name: hash_file(path) for name, path in files.items()} == digests
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(folder: Path, build: Callable[[Path], Mapping[str, Any]]) -> None:
    prefix = f"{PARTIAL}{folder.name}-"
    # This process holds the lock, so that folders of earlier builds belong to dead processes.
    for abandoned in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        about = build(building)
        digests = {name: hash_file(path) for name, path in _list_files(building).items()}
        (building / ABOUT).write_text(
            json.dumps({**about, "sha256": digests}, indent=2), encoding="utf-8"
        )
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
