"""Workflow of `cleanup`: deletion of old, failed and orphaned entities with all their files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.paths import expand
from eyevsai.core.progress import track
from eyevsai.data.disk_cache import DiskCache
from eyevsai.registry.artifacts import Artifacts
from eyevsai.registry.audit_log import CLEANUP, AuditRecord, recording_audit, tag_call
from eyevsai.registry.audit_tags import model_tag
from eyevsai.registry.deletion import BATCH_SIZE, Deletion, release_reservation
from eyevsai.registry.entities import STORE_ERRORS, Client, open_registry, read_models
from eyevsai.registry.queries import FINISHED_BY, PLAN, RunQueries
from eyevsai.registry.retention import CACHE, DeletionItem, DeletionPlan
from eyevsai.registry.settings import CleanupSettings
from eyevsai.registry.stages import DELETING
from eyevsai.store.tags import HOST, JOB
from eyevsai.store.uris import mask_password, summarize_error
from eyevsai.tracking.liveness import owner_tags
from eyevsai.tracking.run_lifecycle import limit_http_retries
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.registry.cleanup_plan import make_plan

log = logging.getLogger("eyevsai")

RERUN_HINT = "Run the same command again to complete it."


@dataclass(frozen=True)
class CleanupResult:
    """Plan of a cleanup, and the items that were deleted."""

    plan: DeletionPlan
    deleted: Sequence[DeletionItem] = ()
    freed_bytes: int = 0
    run_id: str | None = None  # audit run; None if nothing was to be deleted

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "plan": self.plan.to_json(),
            "deleted": [item.target for item in self.deleted],
            "freed_bytes": self.freed_bytes,
            "run_id": self.run_id,
        }


def cleanup(
    settings: CleanupSettings,
    confirm: Callable[[DeletionPlan], bool],
    run_id: str | None = None,
    only: Collection[str] | None = None,
) -> CleanupResult:
    """Plan a deletion, execute it if `confirm` agrees, and record it in the audit log.

    Items that come into use between the plan and the deletion are kept. A cleanup that was
    interrupted before is completed.

    Args:
        settings: what to delete; with `dry_run`, nothing is deleted.
        confirm: called with the plan; returns True if it may be executed.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.
        only: names of the registered models whose versions may be deleted; None for all.

    Returns:
        The plan, and the deleted items; none if `confirm` disagrees or nothing is to be deleted.

    Raises:
        UserError: another cleanup is running, the store is unusable, or the server denies the
            deletion.
        JobError: the store became unreachable, or files could not be deleted. Running the cleanup
            again completes it.
    """
    limit_http_retries()
    with job_context(settings.state_dir, run_id, creates_runs=False) as job:
        client = open_registry(job.tracking_uri)
        try:
            tag_call(client, run_id, "cleanup", {JOB: "cleanup"})
            planned = make_plan(client, settings, only)
            if (
                not confirm(planned)
                or settings.dry_run
                or not (planned.items or _has_interrupted_cleanup(client))
            ):
                return CleanupResult(planned)
            return _clean_up(client, settings, planned, only)
        except STORE_ERRORS as error:
            raise JobError(
                f"The store is unreachable or not writable: {summarize_error(error)}. {RERUN_HINT}"
            ) from error


def _clean_up(
    client: Client, settings: CleanupSettings, planned: DeletionPlan, only: Collection[str] | None
) -> CleanupResult:
    """Delete the items of a confirmed plan that may still be deleted, and record the cleanup.

    The parameters are those of `cleanup`; `planned` is the confirmed plan.
    """
    with _recording_cleanup(client, planned) as record:
        artifacts = Artifacts(client)
        interrupted = _check_no_other_cleanup(
            RunQueries(client, artifacts.experiment_ids), record.run_id
        )
        plan = _plan_again(client, settings, planned, only)
        record.json(PLAN, plan.to_json())
        deletion = Deletion(client, artifacts, expand(settings.state_dir))
        try:
            _delete_all(deletion, plan.items)
        finally:
            _log_deletion(record, deletion)
        for interrupted_id in interrupted:
            client.set_tag(interrupted_id, FINISHED_BY, record.run_id)
    return CleanupResult(planned, deletion.deleted, deletion.freed_bytes, record.run_id)


def _recording_cleanup(client: Client, plan: DeletionPlan) -> Any:
    """Return the context manager that records a cleanup in the audit log."""
    planned = {model_tag(name): numbers for name, numbers in _by_model(plan.items).items()}
    title = f"cleanup of {len(plan.items)} items"
    return recording_audit(
        client,
        CLEANUP,
        title,
        {**owner_tags(), **planned, "reason": f"{plan.size_bytes / 1e6:.1f} MB"},
    )


def _has_interrupted_cleanup(client: Client) -> bool:
    """Return True if an earlier cleanup was interrupted; it may have left reservations."""
    return any(record.status != "RUNNING" for record in RunQueries(client, ()).cleanups())


def _check_no_other_cleanup(queries: RunQueries, run_id: str) -> list[str]:
    """Return the audit runs of interrupted cleanups; `run_id` is the audit run of this one.

    Call this after that run was created: then, of two cleanups that start at the same time, at
    least one sees the other.

    Raises:
        UserError: another cleanup is running.
    """
    others = [record for record in queries.cleanups() if record.run_id != run_id]
    for record in others:
        if record.status == "RUNNING":
            raise UserError(
                f"Another cleanup is running on {record.tags.get(HOST)} (run {record.run_id}). "
                "Wait until it ends. If that machine no longer exists: "
                f"mlflow runs delete --run-id {record.run_id}"
            )
    return [record.run_id for record in others]


def _plan_again(
    client: Client, settings: CleanupSettings, planned: DeletionPlan, only: Collection[str] | None
) -> DeletionPlan:
    """Return a new plan, limited to the items that are in `planned` and did not change since.

    The reservations of interrupted cleanups are released first. Logs a warning for each item of
    `planned` that is kept.
    """
    for model in read_models(client):
        if DELETING in model.tags:
            release_reservation(client, model.name)
    now = make_plan(client, settings, only)
    confirmed = {(item.target, item.versions, item.run_ids) for item in planned.items}
    items = tuple(
        item for item in now.items if (item.target, item.versions, item.run_ids) in confirmed
    )
    changed = {item.target for item in planned.items} - {item.target for item in items}
    for target in sorted(changed):
        log.warning("%s is kept: it changed since the plan was made.", target)
    return replace(now, items=items)


def _delete_all(deletion: Deletion, items: Sequence[DeletionItem]) -> None:
    """Delete the items in batches, the cache last; log the items that are kept.

    Raises:
        UserError: the server denies the deletion.
        JobError: the store became unreachable, or some files could not be deleted.
    """
    stored = [item for item in items if item.type != CACHE]
    batches = [stored[start : start + BATCH_SIZE] for start in range(0, len(stored), BATCH_SIZE)]
    try:
        for batch in track(batches, "Deleting", total=len(stored), unit=BATCH_SIZE):
            deletion.delete(batch)
        deletion.release()
    except STORE_ERRORS as error:
        if getattr(error, "error_code", "") == "PERMISSION_DENIED":
            deletion.release()
            uri = mask_password(deletion.client.tracking_uri)
            raise UserError(
                f"The login has no permission to delete versions and runs on {uri}. Ask the admin "
                "to run the cleanup. Nothing more was deleted."
            ) from error
        progress = f"{len(deletion.deleted)} of {len(items)} items"
        raise JobError(
            f"The store became unreachable after {progress}: {summarize_error(error)}. {RERUN_HINT}"
        ) from error
    for item in items:
        if item.type == CACHE:
            deletion.freed_bytes += DiskCache(item.paths[0], limit_gb=0.0).clear()
            deletion.deleted.append(item)
    for target, reason in deletion.kept.items():
        log.warning("%s is kept: %s", target, reason)
    if deletion.failed:
        raise JobError(
            "\n".join(
                [
                    *(
                        f"{target} is only partly deleted: {reason}"
                        for target, reason in deletion.failed.items()
                    ),
                    f"Fix the cause. {RERUN_HINT}",
                ]
            )
        )


def _log_deletion(record: AuditRecord, deletion: Deletion) -> None:
    """Log the deleted versions and the freed bytes on the audit run.

    While the store is unreachable, only a warning is logged.
    """
    try:
        for name, numbers in _by_model(deletion.deleted).items():
            record.tags({model_tag(name): numbers})
        record.metrics({"items": len(deletion.deleted), "freed_bytes": deletion.freed_bytes})
    except STORE_ERRORS as error:
        log.warning("Cannot record what was deleted: %s", summarize_error(error))


def _by_model(items: Sequence[DeletionItem]) -> dict[str, str]:
    """Return the comma-separated numbers of the items' versions, by registered model."""
    numbers_by_name: dict[str, list[int]] = {}
    for item in items:
        for name, number in item.versions:
            numbers_by_name.setdefault(name, []).append(number)
    return {name: ", ".join(map(str, sorted(numbers))) for name, numbers in numbers_by_name.items()}
