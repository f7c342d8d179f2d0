"""Log output of commands and of calls from Python, on standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from eyevsai.core.errors import UserError
from eyevsai.core.terminal import wrap_message

logger = logging.getLogger("eyevsai")

VERBOSITY = "EYEVSAI_VERBOSITY"  # environment variable, inherited by child processes
QUIET, VERBOSE = "quiet", "verbose"
# `extra` of a record for log files only: standard error shows the same text in another message
FILE_ONLY = {"file_only": True}
LEVELS = {QUIET: logging.WARNING, VERBOSE: logging.DEBUG}


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Set the verbosity of this process and its child processes; unchanged if both are False.

    Raises:
        UserError: both are True.
    """
    if quiet and verbose:
        raise UserError("--quiet and --verbose are mutually exclusive. Use only one.")
    if quiet or verbose:
        os.environ[VERBOSITY] = QUIET if quiet else VERBOSE


def is_verbose() -> bool:
    """Return True if verbose output is enabled."""
    return os.environ.get(VERBOSITY) == VERBOSE


class _Handler(logging.StreamHandler[TextIO]):
    """Handler that writes to the current `sys.stderr`, which a progress bar replaces.

    Records with `FILE_ONLY` are dropped. Long lines are wrapped on a terminal.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return wrap_message(super().format(record), sys.stderr)


def configure_logging() -> None:
    """Write the logger `eyevsai` to standard error, one line per record, and quiet MLflow.

    The level depends on the verbosity: DEBUG, INFO or WARNING. Handlers that the logger has are
    replaced.
    """
    logger.setLevel(LEVELS.get(os.environ.get(VERBOSITY, ""), logging.INFO))
    logger.handlers = [_make_handler()]
    logger.propagate = False
    quiet_mlflow()


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write the logger `eyevsai` to standard error inside the block, for use in a host process.

    Does nothing if the host process already shows INFO records of this logger. Otherwise a handler
    is added, the level is INFO unless the host set one, and both are restored at the end.
    """
    if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
        yield
        return
    handler, level, propagate = _make_handler(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level or logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def quiet_mlflow() -> None:
    """Reduce MLflow's output and turn off its telemetry, by environment variables.

    Values that are set already are kept. Call it before MLflow is imported.
    """
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "INFO" if is_verbose() else "WARNING")
    # MLflow prints URLs of runs on a server to standard output, which --json uses.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Most artifacts are small: progress bars would only clutter the output.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # The thread of the telemetry also changes os.environ while other threads read it.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def _make_handler() -> logging.Handler:
    handler = _Handler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(message)s" if is_verbose() else "%(message)s", "%H:%M:%S")
    )
    return handler
