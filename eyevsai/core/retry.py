"""What several processes write at once: whoever came second asks again, since what it wants is
there by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

# seconds between attempts at what others are writing too
BACKOFF_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
CONFLICT_MESSAGES = (  # what databases say of a row that another process writes, or wrote first
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
    """Whether a store's error is another process's write at the same moment."""
    return any(reason in str(error) for reason in CONFLICT_MESSAGES)


def retry_on_conflict(func: Callable[[], T]) -> T:
    """What `func` answers, tried again while other processes hold what it writes."""
    for pause_s in BACKOFF_S:
        try:
            return func()
        except Exception as error:
            if not is_write_conflict(error):
                raise
            time.sleep(pause_s)
    return func()
