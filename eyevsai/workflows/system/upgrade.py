"""doctor --upgrade: bring a store that an earlier eyevsai wrote to the present names."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from eyevsai.core.errors import UserError, write_error
from eyevsai.registry.entities import open_registry
from eyevsai.store.backend import lock_store, open_store
from eyevsai.store.paging import list_experiments
from eyevsai.store.relocate import back_up
from eyevsai.store.schema import Upgrade, upgrade_run_dirs, upgrade_store
from eyevsai.store.uris import find_store, sqlite_path
from eyevsai.tracking.experiment import update_description

log = logging.getLogger("eyevsai")

LINE_EVERY_RUNS = 100


def upgrade(state_dir: Path) -> Upgrade:
    """Upgrade the store and the run directories of this machine; return what was changed.

    A SQLite store is copied first. The upgrade can be interrupted and called again.

    Raises:
        UserError: the store cannot be opened, copied or written.
    """
    uri = find_store()
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise UserError(f"There is no store {path}, so there is nothing to upgrade.")
    open_store(any_schema=True)
    with lock_store(uri, "upgrade.lock"):
        if path is not None:
            try:
                log.info("The store before the upgrade is %s", back_up(path))
            except (sqlite3.Error, OSError) as error:
                raise UserError(
                    f"{path} cannot be copied: {error}. Nothing was changed."
                ) from error
        client = open_registry(uri)
        done = upgrade_store(client, _report)
        for experiment in list_experiments(client):
            update_description(client, experiment)
    try:
        done.run_dirs = upgrade_run_dirs(state_dir)
    except OSError as error:
        raise write_error(state_dir, error, "Choose another --state-dir.") from error
    return done


def _report(number: int, total: int) -> None:
    if number % LINE_EVERY_RUNS == 0 or number == total:
        log.info("%d of %d runs", number, total)
