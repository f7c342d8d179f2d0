"""Run directories: files of a run on this machine until the run is finished and synced.

They are its configuration, fingerprint, checkpoints, log, heartbeat and write queue.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import UserError, write_error
from eyevsai.core.locks import releasing, try_lock

CONFIG, FINGERPRINT, HEARTBEAT, LOCK, LOG = (
    "config.json",
    "fingerprint.json",
    "heartbeat",
    "lock",
    "training.log",
)
# the configuration without tuned settings, by which a resume finds the run
REQUESTED_CONFIG = "requested_config.json"
REJECTED = "rejected.json"  # the reason why the store rejected a write of the run
TRASH = ".deleted-"  # prefix of a folder that is being deleted
RUNS = "runs"  # the folder of run directories in a state directory
MODEL_ID, VERSION_URI, STORE = "model_id.json", "version.json", "store.json"


@dataclass(frozen=True)
class RunDir:
    """The directory of one run below the state directory `root`."""

    root: Path
    run_id: str

    @property
    def path(self) -> Path:
        """Path of the directory, which `lock` creates."""
        return self.root / RUNS / self.run_id

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """Log file of the run, appended to by each resume."""
        return self.path / LOG

    def lock(self) -> AbstractContextManager[object]:
        """Acquire the lock of the run, which marks it as in use by this process; create the folder.

        The returned context manager releases the lock at its end; the kernel releases it if the
        process dies.

        Raises:
            UserError: another process holds the lock, or the folder cannot be written.
        """
        try:
            while True:
                self.path.mkdir(parents=True, exist_ok=True)
                before = _inode(self.path / LOCK)
                lock = try_lock(self.path / LOCK)
                if lock is None:
                    raise UserError(
                        f"Run {self.run_id} is in use by another process. Wait until it ends."
                    )
                if _inode(self.path / LOCK) == before:
                    return self._releasing(lock)
                # the folder was deleted meanwhile, and the lock is not that of the current file
                lock.release()
        except OSError as error:
            raise write_error(self.path, error, "Choose another --state-dir.") from error

    @contextmanager
    def _releasing(self, lock: FileLock) -> Iterator[None]:
        """Release the lock at the end of the block."""
        with releasing(lock):
            yield
        # `delete` leaves the folder of the lock there, and the release deletes the lock
        if sys.platform == "win32":
            with suppress(OSError):
                self.path.rmdir()

    def write(self, name: str, content: Any) -> None:
        """Write a JSON file of the directory atomically."""
        write_atomically(self.path / name, json.dumps(content, ensure_ascii=False))

    def read(self, name: str) -> Any:
        """Return the content of a JSON file; None if it is missing or damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def remove(self, name: str) -> None:
        """Delete a file of the directory, if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def record_heartbeat(self) -> None:
        """Record that the process of the run is alive now. An OSError is ignored."""
        with suppress(OSError):  # a full disk must not end a run here
            (self.path / HEARTBEAT).touch()

    def last_heartbeat(self) -> float | None:
        """Return the time of the last heartbeat in seconds since 1970; None if there is none."""
        try:
            return (self.path / HEARTBEAT).stat().st_mtime
        except OSError:
            return None

    def delete(self) -> int:
        """Delete the directory and return the number of freed bytes. Call it while holding `lock`.

        The directory is renamed first, so that a process that locks the run next creates a new one
        of which nothing is deleted.
        """
        freed = sum(path.lstat().st_size for path in self.path.rglob("*") if not path.is_dir())
        trash = self.path.with_name(f"{TRASH}{self.run_id}.{uuid.uuid4().hex[:8]}")
        try:
            self.path.rename(trash)
        # Windows cannot rename a folder with an open file, such as the lock.
        except OSError:
            trash = self.path
        shutil.rmtree(trash, ignore_errors=True)
        return freed


def _inode(path: Path) -> tuple[int, int]:
    """Return device and inode of a file, which is created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    status = path.stat()
    return status.st_dev, status.st_ino


def check_state_dir(root: Path) -> None:
    """Raise UserError if the state directory `root` is not writable; create it if it is missing."""
    try:
        (root / RUNS).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root / RUNS):
            pass
    except OSError as error:
        raise write_error(root, error, "Choose another --state-dir.") from error


def finish_deletions(root: Path) -> None:
    """Delete the remains of interrupted deletions of run directories below `root`."""
    for trash in (root / RUNS).glob(f"{TRASH}*"):
        shutil.rmtree(trash, ignore_errors=True)


def list_run_dirs(root: Path) -> list[RunDir]:
    """Return the run directories below a state directory, the last modified first."""
    if not (root / RUNS).is_dir():
        return []
    paths = sorted((root / RUNS).iterdir(), key=_modified_at, reverse=True)
    return [
        RunDir(root, path.name)
        for path in paths
        if path.is_dir() and not path.name.startswith(TRASH)
    ]


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # deleted after it was listed
        return 0.0
