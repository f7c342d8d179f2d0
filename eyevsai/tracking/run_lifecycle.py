"""Lifecycle of a run: start, resume and end.

Only MLflow's client is used, not its fluent API, which keeps an active run and ends it as FINISHED
in an `atexit` hook, even after a failure.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested, TrialPruned, UserError
from eyevsai.core.logging import FILE_ONLY
from eyevsai.core.settings import Setting
from eyevsai.store.given_run import (
    copy_origin,
    has_logged_defaults,
    mark_replaced,
    name_given_run,
    tag_given_run,
)
from eyevsai.store.run_dir import REJECTED, STORE, RunDir, check_state_dir
from eyevsai.store.tags import (
    JOB,
    PAUSED_S,
    SCHEMA,
    SCHEMA_VERSION,
    SOURCE_RUN_ID,
    STUB,
    TERMINATION_REASON,
)
from eyevsai.store.uris import canonical_uri, mask_password
from eyevsai.tracking.experiment import warn_if_elsewhere
from eyevsai.tracking.liveness import HEARTBEAT_S, owner_tags
from eyevsai.tracking.owner_marks import mark_run
from eyevsai.tracking.run import FLUSH_TIMEOUT_S, Run, SyncError, now_ms, open_run
from eyevsai.tracking.run_creation import NewRun, find_or_create_run
from eyevsai.tracking.run_metrics import read_seconds
from eyevsai.tracking.system_metrics import start_system_metrics
from eyevsai.tracking.write_operations import ERROR_LENGTH
from eyevsai.tracking.write_queue import rejection_error

log = logging.getLogger("eyevsai")

INTERRUPTED_S = 3.0  # timeout for flushing the write queue of an interrupted run
RESUMED = "resume"  # job of a run that `mlflow run` created for a command that resumed another run
# few retries by MLflow, because the write queue retries itself
HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@contextmanager
def start_run(
    tracking_uri: str,
    name: str,
    tags: Mapping[str, Any],
    state_dir: Path,
    *,
    given_run_id: str | None = None,
    resumed_run_id: str | None = None,
    extends: bool = False,
    changed: Collection[Setting] = (),
    is_numbered: bool = False,
    experiment_id: str | None = None,
    stop: CancellationToken | None = None,
    interruption_hint: str = "There is no checkpoint: start the command again.",
) -> Iterator[Run]:
    """Start or resume a run, and end it with the status of the block.

    The status is FINISHED, KILLED if the block was interrupted or pruned, otherwise FAILED. The run
    directory is deleted if the run is FINISHED and all its writes are applied.

    Args:
        tracking_uri: URI of the store.
        name: name of a new run.
        tags: tags of the run; values are converted to text. A new run is in the experiment of its
            tag `dataset`, unless MLflow's environment variables select another one.
        state_dir: state directory for the run directory.
        given_run_id: run that `mlflow run` created for this command, used instead of a new one.
            With `resumed_run_id` it is only tagged, and `reap_stale_runs` deletes it later.
        resumed_run_id: earlier run to resume.
        extends: also resume a finished run, for example a study for more trials.
        changed: parameters of MLproject that `--config` sets to other values than the defaults. A
            given run that has logged such a default is only tagged: a new run replaces it, because
            MLflow cannot change a parameter.
        is_numbered: append the next free number to the name of a new run.
        experiment_id: experiment of a new run; None for the usual one.
        stop: cancellation token; a cancellation is deferred while the run ends.
        interruption_hint: sentence for the log if the block is interrupted before a checkpoint
            exists; empty to log nothing.

    Raises:
        UserError: the given run is not of this command, the resumed run has finished or is in use,
            the state directory is not writable, or the login may not write to the server.
        JobError: the store did not accept pending writes of the resumed run, or the disk is full.
        SyncError: the block succeeded, but writes were rejected or are still pending.
    """
    limit_http_retries()
    check_state_dir(state_dir)  # before a run is created
    client = MlflowClient(tracking_uri=tracking_uri)
    run_tags = {SCHEMA: str(SCHEMA_VERSION), **tags, **owner_tags()}
    replaced = None
    if given_run_id and not resumed_run_id and has_logged_defaults(client, given_run_id, changed):
        replaced, given_run_id = given_run_id, None
        run_tags = copy_origin(client, replaced) | run_tags
    new = NewRun(name, run_tags, is_numbered, experiment_id)
    run_id = find_or_create_run(client, new, given_run_id, resumed_run_id)
    if replaced:
        mark_replaced(client, replaced, run_id, owner_tags())
    folder = RunDir(state_dir, run_id)
    with folder.lock():
        # so that a cleanup of another store does not delete the directory as an orphan
        folder.write(STORE, canonical_uri(tracking_uri))
        mark_run(client, run_id)
        run = open_run(client, folder)
        log.debug("Run %s (%s) starts. Its run directory is %s", run_id, name, folder.path)
        if resumed_run_id:
            _resume(run, run_tags, given_run_id, extends=extends)
        with _logging_to(folder.log), _sending_heartbeats(folder):
            yield from _ending_with_status(run, stop or CancellationToken(), interruption_hint)
        folder.delete()  # reached only by a finished run without pending writes; still locked


def limit_http_retries() -> None:
    """Set MLflow's HTTP retries and timeout by environment variables, unless they are set."""
    for variable, value in HTTP_SETTINGS.items():
        os.environ.setdefault(variable, value)


def _ending_with_status(run: Run, stop: CancellationToken, hint: str) -> Iterator[Run]:
    """Yield the run once, and end it with the status of the code that uses it."""
    monitor = start_system_metrics(run)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, TerminationRequested) as error:
        status = "KILLED"
        run.set_tags(
            {TERMINATION_REASON: "SIGTERM" if isinstance(error, TerminationRequested) else "SIGINT"}
        )
        if run.folder.checkpoints.is_dir():
            log.warning("Interrupted. Resume with: eyevsai train --resume %s", run.run_id)
        elif hint:
            log.warning("Interrupted. %s", hint)
        raise
    except TrialPruned:
        status = "KILLED"
        run.set_tags({TERMINATION_REASON: "pruner"})
        raise
    except BaseException as error:
        reason = mask_password(str(error))
        # whoever runs the block reports the error on standard error
        log.error("The run failed: %s", reason, extra=FILE_ONLY)
        # the reason must be logged even if an earlier write was rejected
        run.queue.accept_after_rejection()
        with suppress(JobError):  # the failure may be a full disk, which the queue needs, too
            run.set_tags({"error": reason[:ERROR_LENGTH]})
        raise
    finally:
        with stop.shielded():
            message = _end(run, status, monitor)
    if message:
        raise SyncError(message)


def _end(run: Run, status: str, monitor: Any) -> str:
    """End a run; return an error message if writes were rejected or are still pending, else "".

    If a write is rejected, also later, the queued end of the run sets FAILED instead of FINISHED
    (`write_operations.end_run`).

    Raises:
        JobError: the disk is full; the run is FAILED.
    """
    monitor.finish()
    run.queue.accept_after_rejection()
    try:
        run.queue.append("file", file=run.folder.log.name, artifact_folder=None)
        run.queue.append("end", status=status, time_ms=now_ms())
    except JobError:  # the disk is full, so nothing can be queued
        run.client.set_terminated(run.run_id, "FAILED")
        raise
    patience_s, at_most_s = (
        (INTERRUPTED_S, INTERRUPTED_S) if status == "KILLED" else (FLUSH_TIMEOUT_S, math.inf)
    )
    pending = run.queue.flush(patience_s, at_most_s)
    run.queue.close()
    if run.queue.rejected:
        return str(rejection_error(run.queue.rejected))
    if not pending:
        return ""
    message = (
        f"{pending} writes of run {run.run_id} are still pending: the store did not accept them "
        "in time. Sync them later with: eyevsai sync"
    )
    if status != "FINISHED":
        log.warning(message)
    return message


def _resume(run: Run, tags: dict[str, Any], given_run_id: str | None, *, extends: bool) -> None:
    """Set a run to RUNNING, with new tags and the time of the pause, and tag the given run.

    Raises:
        UserError: the run has finished, and it is not extended.
        JobError: the store did not accept the pending writes of the run.
    """
    # First the pending writes: the queued end of the run must not be applied after the restart.
    if run.queue.flush(FLUSH_TIMEOUT_S):
        raise JobError(
            f"The store did not accept the pending writes of run {run.run_id}. Try again when it "
            "is reachable."
        )
    stored_run = run.client.get_run(run.run_id)
    # another process may have finished it between the check and the lock
    if stored_run.info.status == "FINISHED" and not extends:
        run.queue.close()
        run.folder.delete()
        raise UserError(f"Run {run.run_id} has finished meanwhile: there is nothing to resume.")
    stored_tags = stored_run.data.tags
    warn_if_elsewhere(run.client, run.run_id)
    run.folder.remove(REJECTED)
    # The heartbeat, because the end time of a stale run is the time of its detection.
    paused_s = time.time() - (run.folder.last_heartbeat() or time.time())
    paused = {PAUSED_S: f"{read_seconds(stored_tags.get(PAUSED_S)) + max(paused_s, 0.0):.1f}"}
    # before the status, or `reap_stale_runs` would see the former, dead process
    tag_given_run(run.client, run.run_id, tags | paused)
    if TERMINATION_REASON in stored_tags:
        run.client.delete_tag(run.run_id, TERMINATION_REASON)
    run.client.update_run(run.run_id, status="RUNNING")
    if given_run_id and given_run_id != run.run_id:
        # `mlflow run` itself ends the given run: docs/decisions/010-resume.md
        given_tags = {JOB: RESUMED, STUB: "true", SOURCE_RUN_ID: run.run_id, **owner_tags()}
        tag_given_run(run.client, given_run_id, given_tags)
        name_given_run(run.client, given_run_id, f"resume {stored_run.info.run_name}")


@contextmanager
def _sending_heartbeats(folder: RunDir) -> Iterator[None]:
    ended = threading.Event()

    def _send() -> None:
        folder.record_heartbeat()
        while not ended.wait(HEARTBEAT_S):
            folder.record_heartbeat()

    thread = threading.Thread(target=_send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.handleError = lambda *_: None  # type: ignore[method-assign]  # a full disk must not end a run here
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
