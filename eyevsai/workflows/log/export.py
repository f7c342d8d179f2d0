"""Workflow of `log export`."""

from __future__ import annotations

import time
from pathlib import Path

from eyevsai.core.paths import expand
from eyevsai.inference_log.export import export_answers
from eyevsai.inference_log.retention import DAY_S
from eyevsai.inference_log.settings import ExportLogSettings
from eyevsai.inference_log.store import open_log


def export_log(name: str, settings: ExportLogSettings) -> tuple[Path, int]:
    """Write the answers of a model to a Parquet file; return its path and their number.

    Args:
        name: name of the model.
        settings: the log, the file and the period.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the log has no answers of the model, or the file cannot be written.
    """
    store = open_log(settings)
    store.check_model(name)
    path = expand(settings.file or f"{name}.parquet")
    since = None if settings.days is None else time.time() - settings.days * DAY_S
    number = export_answers(store, name, path, since=since)
    store.close()
    return path, number
