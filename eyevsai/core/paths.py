"""Paths from users, which may be names that the file system rejects."""

from __future__ import annotations

import stat
from pathlib import Path

from eyevsai.core.errors import UserError

SHOWN = 80  # characters of a rejected path in a message: the text is often not meant as a path


def expand(path: str | Path) -> Path:
    """Return a path with `~` or `~USER` expanded; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a file may have this name
        return Path(path)


def is_file(path: str | Path) -> bool:
    """Return True for an existing regular file, False for a name that the file system rejects."""
    return stat.S_ISREG(_read_mode(path))


def is_dir(path: str | Path) -> bool:
    """Return True for an existing folder, False for a name that the file system rejects."""
    return stat.S_ISDIR(_read_mode(path))


def path_error(path: str | Path) -> UserError | None:
    """Return the error for a path that the file system rejects, None for any other path.

    The name is too long or not valid, or one of its folders cannot be searched.
    """
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a null character or half a character
        reason = error.strerror if isinstance(error, OSError) else "it is not a valid file name"
        return UserError(
            f"Cannot use {str(path)[:SHOWN]!r}: {reason}. Check the path and its permissions."
        )
    return None


def _read_mode(path: str | Path) -> int:
    """Return the mode of a file or folder; 0 if it does not exist or cannot be examined."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):
        return 0
