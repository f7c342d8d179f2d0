"""sync: tells the store what runs on this machine could not."""

from __future__ import annotations

import logging
from pathlib import Path

from eyevsai.core.errors import JobError, UserError
from eyevsai.store.backend import open_store
from eyevsai.store.run_dir import list_run_dirs
from eyevsai.store.schema import check_run_dirs
from eyevsai.tracking.finished_runs import flush_run

log = logging.getLogger("eyevsai")

PATIENCE_S = 10.0


def sync_all(state_dir: Path) -> dict[str, int]:
    """Carries out what is left of ended runs, oldest first; entries that are still left, by run id.

    Raises:
        UserError: the store cannot be opened.
    """
    tracking_uri = open_store()
    check_run_dirs(state_dir)
    left = {}
    for folder in reversed(list_run_dirs(state_dir)):
        try:
            left[folder.run_id] = flush_run(tracking_uri, folder, PATIENCE_S)
        except JobError as error:
            log.warning(error)
            left[folder.run_id] = 1
        except UserError:  # a process works on it, and will tell the store itself
            continue
    return left
