"""How a run begins, goes on and ends.

Only MLflow's client is used, never its fluent functions: those keep an active run that an
`atexit` hook ends as FINISHED whatever happened.
"""

from __future__ import annotations

import getpass
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunTag

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested, TrialPruned, UserError
from eyevsai.store.backend import raising_on_denial
from eyevsai.store.given_run import check_given_run
from eyevsai.store.run_dir import REJECTED, STORE, RunDir, check_state_dir
from eyevsai.store.tags import (
    JOB,
    PAUSED_S,
    SCHEMA,
    SCHEMA_VERSION,
    SOURCE_RUN_ID,
    TERMINATION_REASON,
)
from eyevsai.store.uris import canonical_uri, mask_password
from eyevsai.tracking.experiment import describe_experiment, find_experiment
from eyevsai.tracking.liveness import HEARTBEAT_S, owner_tags
from eyevsai.tracking.owner_marks import mark_run
from eyevsai.tracking.run import FLUSH_TIMEOUT_S, Run, SyncError, now_ms, open_run
from eyevsai.tracking.run_metrics import read_seconds
from eyevsai.tracking.system_metrics import start_system_metrics
from eyevsai.tracking.write_operations import ERROR_LENGTH

log = logging.getLogger("eyevsai")

INTERRUPTED_S = 3.0  # that an interrupted run has for what is in its write queue
RESUMED = "resume"  # the job of a run that `mlflow run` made and whose work went on in another
GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")  # names such as bold-fish-123
# the write queue tries again itself
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
    stop: CancellationToken | None = None,
) -> Iterator[Run]:
    """Start or resume a run that ends as the block ends: FINISHED, KILLED when it was interrupted,
    else FAILED.

    `given_run_id` is the run that `mlflow run` made for this call; it is used instead of a new one.
    `resumed_run_id` is an earlier run to resume; then the given run only names it, and
    `reap_stale_runs` deletes the given run later. A finished run is refused unless this one
    `extends` it, as more trials extend a study. A cancellation of `stop` waits while a run ends.

    Raises:
        UserError: another process works on the resumed run, the state directory cannot be
            written, or the server refuses this login.
        SyncError: the block ended well, and the store has not taken all writes.
    """
    for variable, value in HTTP_SETTINGS.items():
        os.environ.setdefault(variable, value)
    check_state_dir(state_dir)  # before a run is made
    client = MlflowClient(tracking_uri=tracking_uri)
    if given_run_id is not None and given_run_id != resumed_run_id:
        check_given_run(client, given_run_id)
    own = {SCHEMA: str(SCHEMA_VERSION), **tags, **owner_tags()}
    with raising_on_denial(tracking_uri):
        run_id = resumed_run_id or (
            _use_given_run(client, given_run_id, name, own)
            if given_run_id
            else create_run(client, name, own)
        )
    folder = RunDir(state_dir, run_id)
    with folder.lock():
        # a cleanup takes nothing for an orphan of another store
        folder.write(STORE, canonical_uri(tracking_uri))
        mark_run(client, run_id)
        run = open_run(client, folder)
        log.debug(
            "Run %s (%s) begins; what this machine keeps of it is in %s", run_id, name, folder.path
        )
        if resumed_run_id:
            _resume(run, own, given_run_id, extends=extends)
        with _logging_to(folder.log), _sending_heartbeats(folder):
            yield from _ending_with_status(run, stop or CancellationToken())
        # only a finished run whose store knows all comes here; inside the lock, or two could own it
        folder.delete()


def _ending_with_status(run: Run, stop: CancellationToken) -> Iterator[Run]:
    """Yields the run and ends it as what follows ends."""
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
            log.warning("Interrupted. Go on with: eyevsai train --resume %s", run.run_id)
        else:
            log.warning("Interrupted before anything could be gone on with.")
        raise
    except TrialPruned:
        status = "KILLED"
        run.set_tags({TERMINATION_REASON: "pruner"})
        raise
    except BaseException as error:
        said = mask_password(str(error))
        log.error("The run failed: %s", said)
        # a rejection of what was logged before does not keep the reason from being logged
        run.queue.accept_after_rejection()
        with suppress(JobError):  # the disk of the queue may be what is full
            run.set_tags({"error": said[:ERROR_LENGTH]})
        raise
    finally:
        with stop.shielded():
            left = _end(run, status, monitor)
    if left:
        raise SyncError(left)


def _end(run: Run, status: str, monitor: Any) -> str:
    """End a run; return an error message if the store rejected writes or some are still pending,
    else "".

    The queued end becomes FAILED where a write was rejected, whenever that turns out
    (`write_operations.end_run`).
    """
    monitor.finish()
    run.queue.accept_after_rejection()
    try:
        run.queue.append("file", file=run.folder.log.name, artifact_folder=None)
        run.queue.append("end", status=status, time_ms=now_ms())
    except JobError:  # this disk is full
        run.client.set_terminated(run.run_id, "FAILED")
        raise
    patience_s, at_most_s = (
        (INTERRUPTED_S, INTERRUPTED_S) if status == "KILLED" else (FLUSH_TIMEOUT_S, math.inf)
    )
    left = run.queue.flush(patience_s, at_most_s)
    run.queue.close()
    if run.queue.rejected:
        return f"MLflow rejected what was logged: {run.queue.rejected}"
    if not left:
        return ""
    said = (
        f"{left} entries of run {run.run_id} are not in the store, which does not answer. "
        "Later: eyevsai sync"
    )
    if status != "FINISHED":
        log.warning(said)
    return said


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, Any]) -> None:
    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])


def _resume(run: Run, tags: dict[str, Any], given: str | None, *, extends: bool) -> None:
    # first: an end that was left unsaid must not come after the new beginning
    if run.queue.flush(FLUSH_TIMEOUT_S):
        raise JobError(
            f"The store did not take what run {run.run_id} left in its write queue. Try again "
            "when it answers."
        )
    found = run.client.get_run(run.run_id)
    # by another process, between the search for it and the lock
    if found.info.status == "FINISHED" and not extends:
        run.queue.close()
        run.folder.delete()
        raise UserError(f"Run {run.run_id} has finished meanwhile: there is nothing to resume.")
    known = found.data.tags
    run.folder.remove(REJECTED)
    # its end is when somebody noticed
    paused_s = time.time() - (run.folder.last_heartbeat() or time.time())
    paused = {PAUSED_S: f"{read_seconds(known.get(PAUSED_S)) + max(paused_s, 0.0):.1f}"}
    # before the status, or `reap_stale_runs` would see a dead owner
    _set_tags(run.client, run.run_id, tags | paused)
    if TERMINATION_REASON in known:
        run.client.delete_tag(run.run_id, TERMINATION_REASON)
    run.client.update_run(run.run_id, status="RUNNING")
    if given and given != run.run_id:  # `mlflow run` ends it: docs/decisions/010-resume.md
        _set_tags(run.client, given, {JOB: RESUMED, SOURCE_RUN_ID: run.run_id, **owner_tags()})


@contextmanager
def _sending_heartbeats(folder: RunDir) -> Iterator[None]:
    done = threading.Event()

    def _beat() -> None:
        folder.record_heartbeat()
        while not done.wait(HEARTBEAT_S):
            folder.record_heartbeat()

    thread = threading.Thread(target=_beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def create_run(
    client: MlflowClient, name: str, tags: Mapping[str, Any], started_ms: int | None = None
) -> str:
    """A new run in the experiment that MLflow resolves; returns its id. It begins now, or when it
    did.
    """
    experiment_id = find_experiment(client)
    describe_experiment(client, experiment_id)
    origin = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "eyevsai",
        "mlflow.source.type": "LOCAL",
    }
    return str(client.create_run(experiment_id, started_ms, {**origin, **tags}, name).info.run_id)


def _use_given_run(client: MlflowClient, run_id: str, name: str, tags: Mapping[str, Any]) -> str:
    info = client.get_run(run_id).info
    describe_experiment(client, info.experiment_id)
    _set_tags(client, run_id, tags)
    if GENERATED_NAME.fullmatch(info.run_name or ""):
        client.update_run(run_id, name=name)
    return run_id


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
