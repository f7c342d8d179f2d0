"""Exceptions with messages for users, and the exit codes of the command line."""

import errno
from typing import TypeVar

# errors that only the user can fix
UNUSABLE_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """An error that the user can fix. The command line prints its message without a traceback."""

    exit_code = 2


class JobError(UserError):
    """A failure of a job after a valid start, for example because the loss became NaN."""

    exit_code = 1


class TerminationRequested(BaseException):
    """A request to end the process (SIGTERM).

    A BaseException, so that `except Exception` does not catch it.
    """

    exit_code = 143


class TrialPruned(Exception):  # noqa: N818  # Optuna's name
    """A trial that the pruner stopped because others are better; not a failure."""


def explain_path_error(error: Exception) -> UserError | None:
    """Return an error message for a path that the operating system rejects; None for other errors.

    Those are the `OSError`s with a file name and an `errno` of `UNUSABLE_PATH`.
    """
    if not isinstance(error, OSError) or error.filename is None or error.errno not in UNUSABLE_PATH:
        return None
    return UserError(
        f"Cannot use {error.filename}: {error.strerror}. Check the path and its permissions."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


E = TypeVar("E", bound=UserError)


def read_error(path: object, error: OSError, fix: str = "") -> UserError:
    """Return the error for a file or folder that cannot be read.

    Args:
        path: file or folder.
        error: error of the operating system; its reason is part of the message.
        fix: sentence that describes the fix; nothing if empty.
    """
    return UserError(f"Cannot read {path}: {error.strerror or error}. {fix}".rstrip())


def write_error(path: object, error: OSError, fix: str, cls: type[E] = UserError) -> E:  # type: ignore[assignment]
    """Return the error for a file or folder that cannot be written.

    Args:
        path: file or folder.
        error: error of the operating system; its reason is part of the message.
        fix: sentence that describes the fix, or the state of the other files; nothing if empty.
        cls: class of the returned error.
    """
    return cls(f"Cannot write {path}: {error.strerror or error}. {fix}".rstrip())
