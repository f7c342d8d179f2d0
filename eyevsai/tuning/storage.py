"""Storage of studies: a database, or a journal file on this machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from eyevsai.core.errors import UserError, first_line
from eyevsai.core.locks import host_lock
from eyevsai.store.uris import mask_password


class _JournalLock(JournalFileOpenLock):
    """File lock that the kernel releases when a process dies; Optuna's own would stay for 30 s."""

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(f"{file}.flock")

    def acquire(self) -> bool:
        """Wait for the lock, and return True."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


@dataclass(frozen=True)
class StudyStorage:
    """Location of a study: a database, or a journal file on this machine."""

    url: str | None  # of the database; None selects the file
    file: Path

    def open(self) -> BaseStorage:
        """Open the storage, and create it if it is missing.

        Raises:
            UserError: the storage is unreachable, or the journal file is not writable.
        """
        try:
            if self.url is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                return JournalStorage(JournalFileBackend(str(self.file), _JournalLock(self.file)))
            name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
            with host_lock(f"studies-{name}.lock"):  # Optuna creates tables without a lock
                return RDBStorage(self.url, engine_kwargs={"pool_pre_ping": True})
        except Exception as error:  # database drivers raise exceptions of many types
            raise self.unusable(error) from error

    def unusable(self, error: Exception) -> UserError:
        """Return the error for a storage that cannot be opened or written."""
        location = mask_password(self.url) if self.url else str(self.file)
        return UserError(
            f"The study storage {location} cannot be used ({mask_password(first_line(error))}). "
            "Fix it, or use another one with --storage."
        )
