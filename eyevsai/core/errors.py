"""Errors that are written for people: what was wrong, where, and what to do."""

import errno
from typing import TypeVar

# what no code can mend
UNUSABLE_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """A mistake that its reader can mend. The command line prints it without a traceback."""

    exit_code = 2


class JobError(UserError):
    """A job that began in good order and could not go on, such as a loss that became NaN."""

    exit_code = 1


class TerminationRequested(BaseException):
    """The process was asked to end (SIGTERM). Not an Exception, so that no handler swallows it."""

    exit_code = 143


class TrialPruned(Exception):  # noqa: N818  # as Optuna calls it
    """A trial that was given up because others do better; neither a mistake nor a failure."""


def explain_path_error(error: Exception) -> UserError | None:
    """What to say of a path that the system refuses; None for other errors."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in UNUSABLE_PATH:
        return None
    return UserError(
        f"Cannot use {error.filename}: {error.strerror}. Check the path, and who may read and "
        "write there."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


E = TypeVar("E", bound=UserError)


def read_error(path: object, error: OSError, fix: str = "") -> UserError:
    """Return the error for a file or folder that cannot be read; `fix` says what to do."""
    return UserError(f"Cannot read {path}: {error.strerror or error}. {fix}".rstrip())


def write_error(path: object, error: OSError, fix: str, cls: type[E] = UserError) -> E:  # type: ignore[assignment]
    """Return the error for a file or folder that cannot be written.

    Args:
        path: what cannot be written.
        error: the reason, of the operating system.
        fix: a sentence that says what to do, or what became of the rest.
        cls: the class of the error.
    """
    return cls(f"Cannot write {path}: {error.strerror or error}. {fix}".rstrip())
