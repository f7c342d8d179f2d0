"""Stale runs: RUNNING runs whose process died, marked as FAILED by the next command on the host."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as Entity

from eyevsai.core.errors import UserError
from eyevsai.store.paging import iter_pages, list_experiments
from eyevsai.store.run_dir import RunDir, finish_deletions
from eyevsai.store.tags import HOST, PROCESS, STUB, TERMINATION_REASON
from eyevsai.tracking.finished_runs import flush_run
from eyevsai.tracking.liveness import is_stale

log = logging.getLogger("eyevsai")

DELETE_STUBS_AFTER_S, PATIENCE_S = 10.0, 2.0


def reap_stale_runs(tracking_uri: str, state_dir: Path) -> list[str]:
    """End the RUNNING runs of dead processes of this host as FAILED, and return their ids.

    Their pending writes are applied first, since they may include the regular end of the run.

    Also deletes the empty runs that `mlflow run` created for commands that another run records,
    after it has ended them, and restores the status KILLED of interrupted runs, which `mlflow run`
    replaced by FAILED (docs/decisions/010-resume.md).
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    finish_deletions(state_dir)
    reaped = []
    for stub in _search(client, f"attributes.status != 'RUNNING' and tags.`{STUB}` = 'true'"):
        if time.time() - (stub.info.end_time or 0) / 1000 > DELETE_STUBS_AFTER_S:
            client.delete_run(stub.info.run_id)
    own_host = f"tags.`{HOST}` = '{platform.node()}'"
    for run in _search(
        client,
        f"attributes.status = 'FAILED' and {own_host} and tags.`{TERMINATION_REASON}` LIKE 'SIG%'",
    ):
        current = client.get_run(run.info.run_id)  # it may have been resumed since the search
        if current.info.status == "FAILED" and TERMINATION_REASON in current.data.tags:
            client.set_terminated(run.info.run_id, "KILLED", run.info.end_time)
    for run in _search(client, f"attributes.status = 'RUNNING' and {own_host}"):
        run_id, folder = run.info.run_id, RunDir(state_dir, run.info.run_id)
        if not is_stale(run.data.tags.get(PROCESS, ""), folder):
            continue
        if folder.path.is_dir():
            try:
                flush_run(tracking_uri, folder, PATIENCE_S)
            except UserError:
                # another process has resumed it, or the store rejected a pending write
                continue
        if client.get_run(run_id).info.status != "RUNNING":
            continue
        client.set_tag(run_id, TERMINATION_REASON, "stale: its process ended unexpectedly")
        client.set_terminated(run_id, "FAILED")
        reaped.append(run_id)
        hint = f" Resume it with --resume {run_id}." if folder.checkpoints.is_dir() else ""
        log.warning(
            "Run %s was left RUNNING by a process that died: marked FAILED.%s", run_id, hint
        )
    return reaped


def check_no_process_works(runs: Iterable[Entity], state_dir: Path) -> None:
    """Raise UserError if the process of a RUNNING run of schema 1 may be alive.

    It would continue to write the former names.
    """
    for run in runs:
        tags, run_id = run.data.tags, run.info.run_id
        if run.info.status == "RUNNING" and not is_stale(
            tags.get("process", ""), RunDir(state_dir, run_id)
        ):
            raise UserError(
                f"Run {run_id} is RUNNING on {tags.get('host', 'an unknown host')}, and its "
                "process may be alive. Nothing was changed. Wait until it ends, or upgrade on "
                "that host, which can check the process."
            )


def _search(client: MlflowClient, filter_string: str) -> Iterator[Entity]:
    experiments = [each.experiment_id for each in list_experiments(client)]
    return iter_pages(
        lambda token: client.search_runs(experiments, filter_string, page_token=token)
    )
