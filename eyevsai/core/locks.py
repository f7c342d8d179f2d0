"""File locks between the processes of one machine; the kernel releases those of a dead process."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from eyevsai.core.errors import UserError


def host_lock(name: str) -> FileLock:
    """Return a lock that all processes of this user on this machine share by its name."""
    return FileLock(Path(tempfile.gettempdir()) / f"eyevsai-{getpass.getuser()}-{name}")


def try_lock(path: Path) -> FileLock | None:
    """Acquire the lock of a file; return None if another process holds it. Raises OSError."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


@contextmanager
def releasing(lock: FileLock) -> Iterator[None]:
    """Release a held lock at the end of the block."""
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a file inside the block.

    Raises:
        UserError: another process holds it; the message is `busy`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = try_lock(path)
    if lock is None:
        raise UserError(busy)
    with releasing(lock):
        yield


@contextmanager
def waiting_for(path: Path, poll_s: float, on_wait: Callable[[bool], None]) -> Iterator[None]:
    """Hold the lock of a file inside the block, waiting while another process has it.

    Args:
        path: of the lock file.
        poll_s: seconds between calls of `on_wait`.
        on_wait: called before each attempt with True if one has failed; it may raise.
    """
    lock, waited = FileLock(path), False
    while True:
        on_wait(waited)
        try:
            lock.acquire(timeout=poll_s)
            break
        except Timeout:
            waited = True
    with releasing(lock):
        yield
