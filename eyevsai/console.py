"""What commands say while they work."""

from __future__ import annotations

import logging
import os

from eyevsai.store import find_store, shown


def start_logging() -> None:
    """Shows what jobs tell of themselves, a line each, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("eyevsai")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which is --json's where there is a server
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for files of a few lines


def say_where() -> str:
    """How to see a run in MLflow's UI."""
    uri = find_store()
    return f"see it at {shown(uri)}" if uri.startswith("http") else "see it with: eyevsai ui"
