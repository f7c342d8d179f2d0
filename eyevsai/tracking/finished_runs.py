"""Runs that have ended: what they left unsaid, what is logged on them later, whether they can be
gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import JobError
from eyevsai.store.run_dir import RunDir, check_state_dir
from eyevsai.store.tags import PROCESS
from eyevsai.tracking.liveness import is_stale
from eyevsai.tracking.run import TABLES, Run, SyncError, make_write_queue, open_run


@contextmanager
def reopen_run(tracking_uri: str, run_id: str, state_dir: Path) -> Iterator[Run]:
    """Reopen a finished run to log more on it; its status and times stay as they are.

    Its own pending writes are written first.

    Raises:
        UserError: another process works on it, or the state directory cannot be written.
        SyncError: the store has not taken all writes.
    """
    check_state_dir(state_dir)
    client = MlflowClient(tracking_uri=tracking_uri)
    folder = RunDir(state_dir, run_id)
    with folder.lock():
        run, known = open_run(client, folder), client.get_run(run_id)
        run.tables = [entry["path"] for entry in json.loads(known.data.tags.get(TABLES, "[]"))]
        try:
            yield run
            told = run.flush()
        finally:
            run.queue.close()
        if not told:
            raise SyncError(
                f"What was found of run {run_id} is not all in the store, which does not answer. "
                "Later: eyevsai sync"
            )
        if known.info.status == "FINISHED":  # of another one the checkpoints lie there too
            folder.delete()


def flush_run(tracking_uri: str, folder: RunDir, patience_s: float) -> int:
    """Carries out what a run of an ended process left in its write queue; returns how many
    entries are left.

    Entries of a run that this store does not know are kept: it is another store's.

    Raises:
        UserError: a process works on the run.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    with folder.lock():
        queue = make_write_queue(client, folder)
        try:
            client.get_run(folder.run_id)
        except MlflowException:
            return queue.pending()
        queue.start()
        left = queue.flush(patience_s)
        queue.close()
        if queue.rejected is not None:
            raise JobError(
                f"The store rejected what run {folder.run_id} left: {queue.rejected}. "
                f"{folder.path} is kept."
            )
        if not left and client.get_run(folder.run_id).info.status == "FINISHED":
            folder.delete()
        return left


def is_active(tracking_uri: str, run_id: str) -> bool:
    """Whether the store has a run of this id that was not deleted."""
    try:
        return bool(
            MlflowClient(tracking_uri=tracking_uri).get_run(run_id).info.lifecycle_stage == "active"
        )
    except MlflowException:
        return False


def reason_not_resumable(tracking_uri: str, folder: RunDir) -> str | None:
    """Why the run of `folder` cannot be gone on with; None when it can."""
    run_id = folder.run_id
    try:
        run = MlflowClient(tracking_uri=tracking_uri).get_run(run_id)
    except MlflowException:
        return f"There is no run {run_id} in the store. `eyevsai ui` shows those that are there."
    if run.info.status == "FINISHED":
        return (
            f"Run {run_id} has finished ({run.data.tags.get('version', 'no version')}): there "
            "is nothing to go on with."
        )
    if run.info.lifecycle_stage != "active":
        return f"Run {run_id} was deleted. Restore it first: mlflow runs restore --run-id {run_id}"
    if run.info.status == "RUNNING" and not is_stale(run.data.tags.get(PROCESS, ""), folder):
        return (
            f"Run {run_id} is alive: another process is working on it. Wait for it, or end that "
            "process."
        )
    return None
