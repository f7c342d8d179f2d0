"""Workflow of `sync`: pending writes of the runs of this machine."""

from __future__ import annotations

import logging
from pathlib import Path

from eyevsai.core.errors import JobError, UserError
from eyevsai.store.backend import open_store
from eyevsai.store.run_dir import list_run_dirs
from eyevsai.store.schema import check_run_dirs
from eyevsai.tracking.finished_runs import flush_run

log = logging.getLogger("eyevsai")

PATIENCE_S = 10.0  # time for which the store may fail before a run is given up


def sync_all(state_dir: Path) -> dict[str, int]:
    """Apply the pending writes of finished runs, oldest first.

    Returns the number of writes that are still pending by run id, 0 for a run that is synced. It is
    1 if the store rejected a write, which is logged as a warning. Runs that a process is working on
    are left out.

    Raises:
        UserError: the store cannot be opened, or `state_dir` has run directories of an old schema.
    """
    tracking_uri = open_store()
    check_run_dirs(state_dir)
    num_pending = {}
    for folder in reversed(list_run_dirs(state_dir)):
        try:
            num_pending[folder.run_id] = flush_run(tracking_uri, folder, PATIENCE_S)
        except JobError as error:
            log.warning(error)
            num_pending[folder.run_id] = 1
        except UserError:  # a process is working on the run, and applies its writes
            continue
    return num_pending
