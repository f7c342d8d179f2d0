"""What commands say while they work, and calls from Python do."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from eyevsai.store import find_store, shown

logger = logging.getLogger("eyevsai")


def start_logging() -> None:
    """Shows what jobs tell of themselves, a line each, on standard error."""
    logger.setLevel(logging.INFO)
    logger.handlers = [_lines()]
    logger.propagate = False
    hush_mlflow()


@contextmanager
def showing_lines() -> Iterator[None]:
    """The same for a while, in a process that is somebody else's: what they configured of the logger `eyevsai` holds,
    and where they show its lines already, nothing is added."""
    if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
        yield
        return
    handler, level, propagate = _lines(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level or logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def hush_mlflow() -> None:
    """Leaves standard output to whoever reads it, and spares people what they cannot use."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which is --json's where there is a server
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for files of a few lines


def say_where() -> str:
    """How to see a run in MLflow's UI."""
    uri = find_store()
    return f"see it at {shown(uri)}" if uri.startswith("http") else "see it with: mlflow ui"


def _lines() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler
