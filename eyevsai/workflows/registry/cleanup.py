"""cleanup: what is old, failed or left over goes, with all its files; what somebody needs stays."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eyevsai.core.errors import JobError, UserError, first_line
from eyevsai.core.progress import track
from eyevsai.data.disk_cache import DiskCache
from eyevsai.registry.artifacts import Artifacts
from eyevsai.registry.audit_log import CLEANUP, MODEL, AuditRecord, recording_audit, tag_call
from eyevsai.registry.deletion import AT_ONCE, Deletion, release_reservation
from eyevsai.registry.entities import STORE_ERRORS, Client, open_registry, read_models
from eyevsai.registry.queries import FINISHED_BY, PLAN, RunQueries
from eyevsai.registry.retention import CACHE, DeletionItem, DeletionPlan
from eyevsai.registry.settings import CleanupSettings
from eyevsai.registry.stages import DELETING
from eyevsai.store.tags import HOST, JOB
from eyevsai.store.uris import mask_password
from eyevsai.tracking.liveness import owner_tags
from eyevsai.tracking.run_lifecycle import HTTP_SETTINGS
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.registry.cleanup_plan import make_plan

log = logging.getLogger("eyevsai")

AGAIN = "The same command, typed again, goes on."


@dataclass(frozen=True)
class CleanupResult:
    """What was planned, and what became of it; `run_id` is the record, None when nothing was
    begun.
    """

    plan: DeletionPlan
    deleted: Sequence[DeletionItem] = ()
    freed_bytes: int = 0
    run_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "plan": self.plan.to_json(),
            "deleted": [item.target for item in self.deleted],
            "freed_bytes": self.freed_bytes,
            "run_id": self.run_id,
        }


def cleanup(
    settings: CleanupSettings,
    agree: Callable[[DeletionPlan], bool],
    run_id: str | None = None,
    only: Collection[str] | None = None,
) -> CleanupResult:
    """Plan, delete what `agree` said yes to and what is still free by then, and record it.

    Args:
        settings: what is deleted.
        agree: returns True if the plan is to be carried out.
        run_id: the run that `mlflow run` made for this call, if one did.
        only: names of the registered models whose versions may go; all by default.

    Raises:
        UserError: another cleanup is at work, the store cannot be written, or the server lets only
            its admin delete.
        JobError: something could not be deleted; a rerun goes on with it.
    """
    for variable, value in HTTP_SETTINGS.items():
        os.environ.setdefault(variable, value)
    with job_context(settings.state_dir, run_id) as job:
        client = open_registry(job.tracking_uri)
        try:
            tag_call(client, run_id, {JOB: "cleanup"})
            planned = make_plan(client, settings, only)
            if (
                not agree(planned)
                or settings.dry_run
                or not (planned.items or _interrupted_cleanup(client))
            ):
                return CleanupResult(planned)
            return _clean_up(client, settings, planned, only)
        except STORE_ERRORS as error:
            raise JobError(
                f"The store cannot be written, or does not answer: {_masked_line(error)}. {AGAIN}"
            ) from error


def _clean_up(
    client: Client, settings: CleanupSettings, planned: DeletionPlan, only: Collection[str] | None
) -> CleanupResult:
    with _recording(client, planned) as record:
        artifacts = Artifacts(client)
        interrupted = _check_no_other_cleanup(
            RunQueries(client, artifacts.experiment_ids), record.run_id
        )
        plan = _still_free(client, settings, planned, only)
        record.json(PLAN, plan.to_json())
        deletion = Deletion(client, artifacts, Path(settings.state_dir).expanduser())
        try:
            _delete_all(deletion, plan.items)
        finally:
            _log_deletion(record, deletion)
        for before in interrupted:
            client.set_tag(before, FINISHED_BY, record.run_id)
    return CleanupResult(planned, deletion.deleted, deletion.freed_bytes, record.run_id)


def _recording(client: Client, plan: DeletionPlan) -> Any:
    planned = {f"{MODEL}{name}": numbers for name, numbers in _by_model(plan.items).items()}
    title = f"cleanup of {len(plan.items)} items"
    return recording_audit(
        client,
        CLEANUP,
        title,
        {**owner_tags(), **planned, "reason": f"{plan.size_bytes / 1e6:.1f} MB"},
    )


def _interrupted_cleanup(client: Client) -> bool:
    """Whether an earlier cleanup left a record, and with it perhaps a claim, to be dealt with."""
    return any(record.status != "RUNNING" for record in RunQueries(client, ()).cleanups())


def _check_no_other_cleanup(queries: RunQueries, own: str) -> list[str]:
    """The records of cleanups that were interrupted.

    Raises:
        UserError: one is at work. Each writes its record before it looks, so that of two one at
            least sees the other.
    """
    others = [record for record in queries.cleanups() if record.run_id != own]
    for record in others:
        if record.status == "RUNNING":
            raise UserError(
                f"Another cleanup is at work on {record.tags.get(HOST)} (run {record.run_id}): "
                "wait for it. If that machine is gone for good: "
                f"mlflow runs delete --run-id {record.run_id}"
            )
    return [record.run_id for record in others]


def _still_free(
    client: Client, settings: CleanupSettings, planned: DeletionPlan, only: Collection[str] | None
) -> DeletionPlan:
    """Of what was agreed to what may still go; claims that an interrupted cleanup left are taken
    back.
    """
    for model in read_models(client):
        if DELETING in model.tags:
            release_reservation(client, model.name)
    now = make_plan(client, settings, only)
    agreed = {(item.target, item.versions, item.run_ids) for item in planned.items}
    free = tuple(item for item in now.items if (item.target, item.versions, item.run_ids) in agreed)
    left = {item.target for item in planned.items} - {item.target for item in free}
    for what in sorted(left):
        log.warning("%s stays: something changed since it was planned.", what)
    return replace(now, items=free)


def _delete_all(deletion: Deletion, items: Sequence[DeletionItem]) -> None:
    stored = [item for item in items if item.type != CACHE]
    batches = [stored[start : start + AT_ONCE] for start in range(0, len(stored), AT_ONCE)]
    try:
        for batch in track(batches, "Deleting", total=len(stored), unit=AT_ONCE):
            deletion.delete(batch)
        deletion.release()
    except STORE_ERRORS as error:
        if getattr(error, "error_code", "") == "PERMISSION_DENIED":
            deletion.release()
            uri = mask_password(deletion.client.tracking_uri)
            raise UserError(
                f"Your login may not delete versions and runs on {uri}: a cleanup there is its "
                "admin's. Nothing more was deleted."
            ) from error
        done = f"{len(deletion.deleted)} of {len(items)} items"
        raise JobError(
            f"The store stopped answering after {done}: {_masked_line(error)}. {AGAIN}"
        ) from error
    for item in items:
        if item.type == CACHE:
            deletion.freed_bytes += DiskCache(item.paths[0], limit_gb=0.0).clear()
            deletion.deleted.append(item)
    for what, why in deletion.kept.items():
        log.warning("%s stays: %s", what, why)
    if deletion.failed:
        raise JobError(
            "\n".join(
                [
                    *(f"{what} is deleted in part: {why}" for what, why in deletion.failed.items()),
                    f"Mend that. {AGAIN}",
                ]
            )
        )


def _log_deletion(record: AuditRecord, deletion: Deletion) -> None:
    """What was deleted, on the record; a store that is away is told nothing."""
    try:
        for name, numbers in _by_model(deletion.deleted).items():
            record.tags({f"{MODEL}{name}": numbers})
        record.metrics({"items": len(deletion.deleted), "freed_bytes": deletion.freed_bytes})
    except STORE_ERRORS as error:
        log.warning("The store could not be told what was deleted: %s", _masked_line(error))


def _masked_line(error: Exception) -> str:
    return mask_password(first_line(error))[:200]


def _by_model(items: Sequence[DeletionItem]) -> dict[str, str]:
    """The numbers of deleted versions by registered model."""
    found: dict[str, list[int]] = {}
    for item in items:
        for name, number in item.versions:
            found.setdefault(name, []).append(number)
    return {name: ", ".join(map(str, sorted(numbers))) for name, numbers in found.items()}
