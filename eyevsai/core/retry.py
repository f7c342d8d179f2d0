"""Retries of database writes that conflict with those of other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

# pauses between attempts, in seconds
BACKOFF_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
CONFLICT_MESSAGES = (  # parts of database errors when another process writes the same row
    "database is locked",
    "deadlock detected",
    "could not serialize",
    "UNIQUE constraint",
    "duplicate key",
    "expected to update",
    "Deadlock found",
    "Duplicate entry",
)
T = TypeVar("T")


def is_write_conflict(error: Exception) -> bool:
    """Return True if an error of a store was caused by a concurrent write of another process."""
    return any(reason in str(error) for reason in CONFLICT_MESSAGES)


def retry_on_conflict(func: Callable[[], T]) -> T:
    """Call `func`, retrying with backoff on database write conflicts; return its result.

    Other errors are raised immediately; a conflict is raised after the last attempt.
    """
    for pause_s in BACKOFF_S:
        try:
            return func()
        except Exception as error:
            if not is_write_conflict(error):
                raise
            time.sleep(pause_s)
    return func()
