"""Runs whose process died without a word: found and marked at the next start on the same host."""

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
from eyevsai.store.tags import HOST, JOB, PROCESS, TERMINATION_REASON
from eyevsai.tracking.finished_runs import flush_run
from eyevsai.tracking.liveness import is_stale
from eyevsai.tracking.run_lifecycle import RESUMED

log = logging.getLogger("eyevsai")

DELETE_STUBS_AFTER_S, PATIENCE_S = 10.0, 2.0


def reap_stale_runs(tracking_uri: str, state_dir: Path) -> list[str]:
    """Ends the RUNNING runs of dead processes of this host as FAILED and returns their ids.

    What such a process left in its write queue is carried out first: it may have ended in good
    order.

    Runs that `mlflow run` made for a resume, which hold nothing, are deleted once `mlflow run` has
    left them. Interrupted runs over whose KILLED it wrote FAILED (docs/decisions/010-resume.md) are
    KILLED again.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    finish_deletions(state_dir)
    reaped = []
    for stub in _search(client, f"attributes.status = 'FINISHED' and tags.`{JOB}` = '{RESUMED}'"):
        if time.time() - stub.info.end_time / 1000 > DELETE_STUBS_AFTER_S:
            client.delete_run(stub.info.run_id)
    here = f"tags.`{HOST}` = '{platform.node()}'"
    for run in _search(
        client,
        f"attributes.status = 'FAILED' and {here} and tags.`{TERMINATION_REASON}` LIKE 'SIG%'",
    ):
        now = client.get_run(run.info.run_id)  # somebody may have just begun to go on with it
        if now.info.status == "FAILED" and TERMINATION_REASON in now.data.tags:
            client.set_terminated(run.info.run_id, "KILLED", run.info.end_time)
    for run in _search(client, f"attributes.status = 'RUNNING' and {here}"):
        run_id, folder = run.info.run_id, RunDir(state_dir, run.info.run_id)
        if not is_stale(run.data.tags.get(PROCESS, ""), folder):
            continue
        if folder.path.is_dir():
            try:
                flush_run(tracking_uri, folder, PATIENCE_S)
            except UserError:
                # somebody has just begun to go on with it, or the store refused what it left
                continue
        if client.get_run(run_id).info.status != "RUNNING":
            continue
        client.set_tag(run_id, TERMINATION_REASON, "stale: its process ended unexpectedly")
        client.set_terminated(run_id, "FAILED")
        reaped.append(run_id)
        hint = f" Go on with --resume {run_id}." if folder.checkpoints.is_dir() else ""
        log.warning(
            "Run %s was left RUNNING by a process that died: marked FAILED.%s", run_id, hint
        )
    return reaped


def check_no_process_works(runs: Iterable[Entity], state_dir: Path) -> None:
    """Raise UserError if the process of a RUNNING run of schema 1 may be alive: it would go on
    writing the former names.
    """
    for run in runs:
        known, run_id = run.data.tags, run.info.run_id
        if run.info.status == "RUNNING" and not is_stale(
            known.get("process", ""), RunDir(state_dir, run_id)
        ):
            raise UserError(
                f"Run {run_id} is RUNNING on {known.get('host', 'an unknown host')}, and its "
                "process may be alive. Nothing was changed. Wait for it, or upgrade on that host, "
                "where it is known whether it is."
            )


def _search(client: MlflowClient, wanted: str) -> Iterator[Entity]:
    experiments = [each.experiment_id for each in list_experiments(client)]
    return iter_pages(lambda token: client.search_runs(experiments, wanted, page_token=token))
