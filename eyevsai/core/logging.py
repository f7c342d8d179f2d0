"""What commands say while they work, and calls from Python do."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from eyevsai.core.errors import UserError

logger = logging.getLogger("eyevsai")

VERBOSITY = "EYEVSAI_VERBOSITY"  # a variable, so that processes which a command starts know it too
QUIET, VERBOSE = "quiet", "verbose"
LEVELS = {QUIET: logging.WARNING, VERBOSE: logging.DEBUG}


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Makes this process, and those that it starts, say less or more.

    Raises:
        UserError: both are asked for.
    """
    if quiet and verbose:
        raise UserError("--quiet and --verbose contradict each other: leave one out.")
    if quiet or verbose:
        os.environ[VERBOSITY] = QUIET if quiet else VERBOSE


def is_verbose() -> bool:
    """Whether more is to be said."""
    return os.environ.get(VERBOSITY) == VERBOSE


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time: a bar puts lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure_logging() -> None:
    """Shows what jobs tell of themselves, a line each, on standard error."""
    logger.setLevel(LEVELS.get(os.environ.get(VERBOSITY, ""), logging.INFO))
    logger.handlers = [_make_handler()]
    logger.propagate = False
    quiet_mlflow()


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """The same for a while, in a process that is somebody else's: what they configured of the
    logger `eyevsai` holds, and where they show its lines already, nothing is added.
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
    """Leaves standard output to whoever reads it, and spares people what they cannot use."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "INFO" if is_verbose() else "WARNING")
    # which is --json's where there is a server
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # for files of a few lines
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def _make_handler() -> logging.Handler:
    handler = _Handler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(message)s" if is_verbose() else "%(message)s", "%H:%M:%S")
    )
    return handler
