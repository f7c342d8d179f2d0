"""Workflow of `doctor --upgrade`: upgrade of a store to the current schema."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.progress import track
from eyevsai.registry.entities import open_registry
from eyevsai.store.backend import lock_store, open_store, raising_store_errors
from eyevsai.store.paging import list_experiments
from eyevsai.store.relocate import back_up
from eyevsai.store.schema_upgrade import (
    find_old_run_dirs,
    find_old_runs,
    upgrade_run,
    upgrade_run_dir,
    upgrade_versions,
)
from eyevsai.store.uris import find_store, sqlite_path
from eyevsai.tracking.experiment_view import update_description
from eyevsai.tracking.stale_runs import check_no_process_works

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class Upgrade:
    """Numbers of upgraded objects, and of deleted runs, which keep the former names."""

    runs: int
    versions: int
    run_dirs: int
    deleted_runs: int


def upgrade(state_dir: Path) -> Upgrade:
    """Upgrade the run directories of this machine and the store, and return the numbers of changes.

    A SQLite store is backed up first. An interrupted upgrade is completed by the next call.

    Raises:
        UserError: the store does not exist, or cannot be opened, backed up or written, a run
            directory cannot be written, or the process of a run may be alive.
        JobError: the store failed.
    """
    uri = find_store()
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise UserError(f"There is nothing to upgrade: the store {path} does not exist.")
    open_store(any_schema=True)
    client = open_registry(uri)
    with lock_store(uri, "upgrade.lock"), raising_store_errors(uri, "The upgrade"):
        runs = find_old_runs(client)
        check_no_process_works(runs, state_dir)
        run_dirs = find_old_run_dirs(state_dir)
        try:
            for run_dir in run_dirs:
                upgrade_run_dir(run_dir)
        except OSError as error:
            raise write_error(state_dir, error, "Choose another --state-dir.") from error
        if path is not None and runs:
            _back_up(path)
        # before the runs: `check_schema` detects an old store by runs that are upgraded last
        versions = upgrade_versions(client)
        for run in track(runs, "Upgrading runs", total=len(runs)):
            upgrade_run(client, run)
        if runs:
            for experiment in list_experiments(client):
                update_description(client, experiment)
        deleted = len(find_old_runs(client, deleted=True))
    return Upgrade(len(runs), versions, len(run_dirs), deleted)


def _back_up(path: Path) -> None:
    try:
        log.info("Backed up the store to %s", back_up(path))
    except (sqlite3.Error, OSError) as error:
        raise UserError(f"{path} cannot be copied: {error}. Nothing was changed.") from error
