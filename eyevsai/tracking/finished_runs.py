"""Finished runs: flush pending writes, reopen for logging, check whether they can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import JobError
from eyevsai.store.deleted_runs import describe_deletion
from eyevsai.store.run_dir import RunDir, check_state_dir
from eyevsai.store.tags import PROCESS
from eyevsai.tracking.liveness import is_stale
from eyevsai.tracking.run import TABLES, Run, SyncError, make_write_queue, open_run
from eyevsai.tracking.search import missing_run


@contextmanager
def reopen_run(tracking_uri: str, run_id: str, state_dir: Path) -> Iterator[Run]:
    """Reopen a finished run to log more to it; its status and times do not change.

    Its pending writes are applied first. If all writes are applied at the end, the run directory of
    a FINISHED run is deleted.

    Args:
        tracking_uri: URI of the store.
        run_id: run to reopen.
        state_dir: state directory for the run directory.

    Raises:
        UserError: another process is working on the run, or the state directory is not writable.
        JobError: the store rejected a write.
        SyncError: some writes are still pending.
    """
    check_state_dir(state_dir)
    client = MlflowClient(tracking_uri=tracking_uri)
    folder = RunDir(state_dir, run_id)
    with folder.lock():
        run, stored_run = open_run(client, folder), client.get_run(run_id)
        run.tables = [entry["path"] for entry in json.loads(stored_run.data.tags.get(TABLES, "[]"))]
        try:
            yield run
            is_synced = run.flush()
        finally:
            run.queue.close()
        if not is_synced:
            raise SyncError(
                f"Some writes of run {run_id} are still pending: the store is unreachable. Sync "
                "them later with: eyevsai sync"
            )
        if stored_run.info.status == "FINISHED":  # others keep their checkpoints in the directory
            folder.delete()


def flush_run(tracking_uri: str, folder: RunDir, patience_s: float) -> int:
    """Apply the pending writes of a run whose process has ended; return the number still pending.

    The run directory of a FINISHED run without pending writes is deleted. If the store has no such
    run or is unreachable, nothing is applied: the run may belong to another store.

    Args:
        tracking_uri: URI of the store.
        folder: run directory.
        patience_s: seconds for which the store may fail before the call gives up.

    Raises:
        UserError: another process is working on the run.
        JobError: the store rejected a write; the run directory is kept.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    with folder.lock():
        queue = make_write_queue(client, folder)
        try:
            client.get_run(folder.run_id)
        except MlflowException:
            return queue.pending()
        queue.start()
        pending = queue.flush(patience_s)
        queue.close()
        if queue.rejected is not None:
            raise JobError(
                f"The store rejected a pending write of run {folder.run_id}: {queue.rejected}. "
                f"{folder.path} is kept."
            )
        if not pending and client.get_run(folder.run_id).info.status == "FINISHED":
            folder.delete()
        return pending


def is_active(tracking_uri: str, run_id: str) -> bool:
    """Return True if a run exists and is not deleted; False also if the store is unreachable."""
    try:
        return bool(
            MlflowClient(tracking_uri=tracking_uri).get_run(run_id).info.lifecycle_stage == "active"
        )
    except MlflowException:
        return False


def reason_not_resumable(tracking_uri: str, folder: RunDir) -> str | None:
    """Return an error message if the run of a directory cannot be resumed; None if it can."""
    run_id = folder.run_id
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return missing_run(run_id)
    if run.info.status == "FINISHED":
        version = run.data.tags.get("version", "no version")
        return f"Run {run_id} has finished ({version}). Omit --resume to train again."
    if run.info.lifecycle_stage != "active":
        return f"Run {run_id} {describe_deletion(client, run.info)}"
    if run.info.status == "RUNNING" and not is_stale(run.data.tags.get(PROCESS, ""), folder):
        return (
            f"Run {run_id} is in use by another process. Wait until it ends, or end that process."
        )
    return None
