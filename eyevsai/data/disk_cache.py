"""The cache: what takes long to compute and is needed again, in folders that are whole or not there
at all.

An entry is a folder named by what it was made from. It is built under a lock and another name, then
renamed, so that a build that died leaves nothing that could be taken for an entry; its `cache.json`
has the SHA-256 of each of its files.
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
SCAN_CACHES = "audit"  # the folder of what is known of files that were checked
ABOUT, PARTIAL = "cache.json", ".building-"
WAIT_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class DiskCache:
    """The entries under one root, which together stay below a limit.

    To stay below it, only entries of the kinds in `evicted` are deleted, those unused for longest
    first.
    """

    root: Path
    limit_gb: float
    evicted: tuple[str, ...] = KINDS

    def open(
        self,
        kind: str,
        made_from: str,
        build: Callable[[Path], Mapping[str, Any]],
        read: Callable[[Path], T],
        check: Callable[[], None] = lambda: None,
        *,
        fresh: bool = False,
    ) -> T:
        """What `read` finds in the folder of the entry made from `made_from`; built where it is not
        there or damaged.

        `build` fills an empty folder and returns what `cache.json` is to say of it. Who else needs
        the same entry at the same time waits for it, and calls `check` now and then. With `fresh`
        the entry is built again even if it is there.

        Raises:
            UserError: the cache cannot be written.
        """
        folder = self.root / kind / hashlib.sha256(made_from.encode()).hexdigest()[:32]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder, check):
                if folder.is_dir() and not _is_complete(folder):
                    log.warning("The cache %s is damaged: building it again.", folder)
                    shutil.rmtree(folder)
                if fresh:
                    shutil.rmtree(folder, ignore_errors=True)
                log.debug(
                    "%s is %s",
                    folder,
                    "in the cache" if folder.is_dir() else "not in the cache: computing it",
                )
                if not folder.is_dir():
                    _build(folder, build)
                    self._evict(keep=folder)
                os.utime(folder)  # what was used last is deleted last
                return read(folder)
        except OSError as error:
            raise write_error(folder, error, "Choose another --cache-dir.") from error

    def size_bytes(self) -> int:
        """Return the size of all entries and scan caches together."""
        return sum(map(_size, [*self._entries(), self.root / SCAN_CACHES]))

    def clear(self) -> int:
        """Delete scan caches, and all entries that no running build holds; return the freed
        bytes.
        """
        scan_caches = self.root / SCAN_CACHES
        freed = _size(scan_caches)
        shutil.rmtree(scan_caches, ignore_errors=True)
        return freed + sum(map(self._delete, self._entries()))

    def _entries(self) -> list[Path]:
        """Folders of entries, those unused for longest first."""
        kinds = [self.root / kind for kind in KINDS if (self.root / kind).is_dir()]
        folders = [path for kind in kinds for path in kind.iterdir() if path.is_dir()]
        return sorted(
            (path for path in folders if not path.name.startswith(PARTIAL)), key=_last_used
        )

    def _evict(self, keep: Path) -> None:
        sizes = {path: _size(path) for path in self._entries()}
        excess = sum(sizes.values()) - self.limit_gb * 1e9
        for path in sizes:
            if excess > 0 and path != keep and path.parent.name in self.evicted:
                excess -= self._delete(path)

    def _delete(self, path: Path) -> int:
        # waiting for a process that builds or checks the entry, with a lock of our own, could
        # deadlock
        lock = try_lock(Path(f"{path}.lock"))
        if lock is None:
            return 0
        with releasing(lock):
            freed = _size(path)
            shutil.rmtree(path, ignore_errors=True)  # a process that has it open keeps reading it
        return freed


@contextmanager
def _locked(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    is_said = False

    def wait(has_failed: bool) -> None:
        """Call `check`, and log once that another process builds the entry."""
        nonlocal is_said
        check()
        if has_failed and not is_said:
            log.info("Waiting for another process that computes the same: %s", folder)
            is_said = True

    with waiting_for(Path(f"{folder}.lock"), WAIT_S, wait):
        yield


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # deleted by another process just now
        return 0.0


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in _files(folder).values())
    except OSError:
        return 0


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their relative paths, links included."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _is_complete(folder: Path) -> bool:
    """Return True if the files are, byte by byte, those that were written, no more and no fewer."""
    try:
        digests = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["sha256"]
        files = _files(folder)
        del files[ABOUT]
        return bool(digests) and {name: hash_file(path) for name, path in files.items()} == digests
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(folder: Path, build: Callable[[Path], Mapping[str, Any]]) -> None:
    prefix = f"{PARTIAL}{folder.name}-"
    # the lock is ours: whoever built there is dead
    for abandoned in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        about = build(building)
        digests = {name: hash_file(path) for name, path in _files(building).items()}
        (building / ABOUT).write_text(
            json.dumps({**about, "sha256": digests}, indent=2), encoding="utf-8"
        )
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
