"""File locks between processes of one machine; the kernel releases the locks of a dead process."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from eyevsai.core.errors import UserError


def host_lock(name: str) -> FileLock:
    """Return the lock of a name, shared by all processes of this user on this machine.

    It is not acquired.
    """
    return FileLock(Path(tempfile.gettempdir()) / f"eyevsai-{getpass.getuser()}-{name}")


def try_lock(path: Path) -> FileLock | None:
    """Acquire a lock file without waiting; return None if another process holds it.

    Raises:
        OSError: the file cannot be created or opened.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


@contextmanager
def releasing(lock: FileLock) -> Iterator[None]:
    """Release an acquired lock at the end of the block."""
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file inside the block; its folder is created if it does not exist.

    Raises:
        UserError: another process holds the lock; the message is `busy`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = try_lock(path)
    if lock is None:
        raise UserError(busy)
    with releasing(lock):
        yield


@contextmanager
def waiting_for(path: Path, poll_s: float, on_wait: Callable[[bool], None]) -> Iterator[None]:
    """Hold a lock file inside the block; wait while another process holds it.

    Args:
        path: lock file; its folder must exist.
        poll_s: timeout of an attempt in seconds, and so the interval of the calls of `on_wait`.
        on_wait: called before each attempt, with False before the first and True before the others.
            An exception that it raises ends the wait.
    """
    lock, is_retry = FileLock(path), False
    while True:
        on_wait(is_retry)
        try:
            lock.acquire(timeout=poll_s)
            break
        except Timeout:
            is_retry = True
    with releasing(lock):
        yield
