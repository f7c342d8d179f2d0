"""What this machine keeps of a run until it is finished: its configuration, its data and code, its
checkpoints.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# the configuration without what a study found, by which a run is known again
REQUESTED_CONFIG = "requested_config.json"
REJECTED = "rejected.json"  # the reason why the store rejected a write of the run
TRASH = ".deleted-"  # begins the name of a folder that is being deleted
RUNS = "runs"  # the folder of run folders below a state directory
MODEL_ID, VERSION_URI, STORE = "model_id.json", "version.json", "store.json"


@dataclass(frozen=True)
class RunDir:
    """The folder of one run below the state directory."""

    root: Path
    run_id: str

    @property
    def path(self) -> Path:
        """Where it lies; made by `lock`."""
        return self.root / RUNS / self.run_id

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """The run's log, over all its starts."""
        return self.path / LOG

    def lock(self) -> AbstractContextManager[object]:
        """A held lock that says that this process works on the run; released when the process ends.

        Raises:
            UserError: another process works on it, or the folder cannot be written.
        """
        try:
            while True:
                self.path.mkdir(parents=True, exist_ok=True)
                before = _inode(self.path / LOCK)
                lock = try_lock(self.path / LOCK)
                if lock is None:
                    raise UserError(
                        f"Run {self.run_id} is alive: another process is working on it. Wait "
                        "for it."
                    )
                if _inode(self.path / LOCK) == before:
                    return releasing(lock)
                # of a folder that its owner has just deleted: not the lock of the one here now
                lock.release()
        except OSError as error:
            raise write_error(self.path, error, "Choose another --state-dir.") from error

    def write(self, name: str, content: Any) -> None:
        """Writes one of the folder's JSON files in one step."""
        write_atomically(self.path / name, json.dumps(content, ensure_ascii=False))

    def read(self, name: str) -> Any:
        """What `write` wrote; None when it is not there or torn."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def remove(self, name: str) -> None:
        """Delete one of the folder's files, if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def record_heartbeat(self) -> None:
        """Says that the process which works on the run is alive now."""
        with suppress(OSError):  # a heart that cannot be written must not end a run
            (self.path / HEARTBEAT).touch()

    def last_heartbeat(self) -> float | None:
        """When `record_heartbeat` was last called, in seconds since 1970; None if never."""
        try:
            return (self.path / HEARTBEAT).stat().st_mtime
        except OSError:
            return None

    def delete(self) -> int:
        """Delete the folder and return the bytes that were freed. Call it while `lock` is held.

        The folder is renamed first: a process that claims the run next makes a new one and loses
        nothing of it.
        """
        freed = sum(path.lstat().st_size for path in self.path.rglob("*") if not path.is_dir())
        trash = self.path.with_name(f"{TRASH}{self.run_id}.{uuid.uuid4().hex[:8]}")
        try:
            self.path.rename(trash)
        # Windows renames no folder with an open file: its own lock cannot be deleted there either
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
    """Raise UserError if no run folder can be created below `root`."""
    try:
        (root / RUNS).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root / RUNS):
            pass
    except OSError as error:
        raise write_error(root, error, "Choose another --state-dir.") from error


def finish_deletions(root: Path) -> None:
    """Delete what interrupted deletions of run folders left below `root`."""
    for trash in (root / RUNS).glob(f"{TRASH}*"):
        shutil.rmtree(trash, ignore_errors=True)


def list_run_dirs(root: Path) -> list[RunDir]:
    """All run folders below a state directory, the one written to last first."""
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
    except OSError:  # deleted since it was listed
        return 0.0
