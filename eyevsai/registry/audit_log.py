"""Audit log of the registry: one run per call, in an experiment of its own."""

from __future__ import annotations

import getpass
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.audit_tags import MODEL, model_of_tag, model_tag
from eyevsai.registry.experiments import ensure_experiment
from eyevsai.store.given_run import check_given_run, name_given_run, tag_given_run
from eyevsai.store.paging import PAGE_SIZE, iter_pages
from eyevsai.store.tags import JOB, STUB

EXPERIMENT = "eyevsai-registry"
ABOUT = (
    "Audit log of promotions, rollbacks and deletions: user, time, reason, version before and "
    "after. See: eyevsai registry log NAME"
)
CLEANUP = "cleanup"  # action of the audit run of a cleanup
REFUSED = "refused"  # tag of a promotion: True if a policy check failed
BOOLEANS = {"True": True, "False": False}  # values of REFUSED
TAG_LENGTH = 5000  # characters; longer values are cut
TITLE_LENGTH = 250  # characters of the name of a run


@dataclass(frozen=True)
class AuditEntry:
    """Recorded call, as seen from one registered model."""

    run_id: str
    time: datetime
    action: str  # promote, rollback, archive, found, pin, unpin or cleanup
    status: str  # of the audit run; FINISHED if the call took effect
    user: str
    reason: str
    stage: str
    before: int | None
    after: int | None
    # True if a policy check failed, even if forced; None if the policy was not checked
    refused: bool | None
    forced: bool
    versions: str  # versions of this model that the call concerns

    def is_effective(self, stage: str) -> bool:
        """Return True if the call finished and changed the holder of a stage."""
        return self.status == "FINISHED" and self.stage == stage

    def concerns(self, number: int) -> bool:
        """Return True if the call was about a version, or replaced it in a stage."""
        listed = {int(text) for text in re.findall(r"\d+", self.versions)}
        return number in {self.before, self.after, *listed}


@dataclass
class AuditRecord:
    """Audit entry of a call in progress."""

    client: MlflowClient
    run_id: str
    is_finished: bool = False

    def tags(self, values: Mapping[str, Any]) -> None:
        """Log further tags of the call.

        Values are cut to the length of a tag; None is skipped.
        """
        run_tags = [
            RunTag(name, str(value)[:TAG_LENGTH])
            for name, value in values.items()
            if value is not None
        ]
        retry_on_conflict(lambda: self.client.log_batch(self.run_id, tags=run_tags))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics of the call."""
        now = int(datetime.now(UTC).timestamp() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in values.items()]
        retry_on_conflict(lambda: self.client.log_batch(self.run_id, metrics=metrics))

    def finish(self) -> None:
        """Set the status FINISHED, once; an error after that does not change it."""
        if not self.is_finished:
            retry_on_conflict(lambda: self.client.set_terminated(self.run_id, "FINISHED"))
            self.is_finished = True

    def json(self, name: str, content: Any) -> None:
        """Log `content` as a JSON artifact with the file name `name`."""
        self.client.log_dict(self.run_id, content, name)


@contextmanager
def recording_audit(
    client: MlflowClient, action: str, title: str, tags: Mapping[str, Any]
) -> Iterator[AuditRecord]:
    """Record a call: FINISHED when the block ends, FAILED with the error if it raises.

    An error after `AuditRecord.finish` is recorded too, but the status stays FINISHED.

    Args:
        client: client of the store.
        action: one of the actions of `AuditEntry`.
        title: name of the audit run.
        tags: tags of the audit run; None is skipped, and values are cut to the length of a tag.
    """
    origin = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "eyevsai",
        "mlflow.source.type": "LOCAL",
        JOB: "registry",
        "action": action,
    }
    run_tags = {
        name: str(value)[:TAG_LENGTH]
        for name, value in (origin | dict(tags)).items()
        if value is not None
    }
    experiment_id = ensure_experiment(client, EXPERIMENT, ABOUT)
    run_name = title[:TITLE_LENGTH]
    run = retry_on_conflict(
        lambda: client.create_run(experiment_id, tags=run_tags, run_name=run_name)
    )
    record = AuditRecord(client, run.info.run_id)
    try:
        yield record
    except BaseException as error:
        # while the server is unreachable, the run stays RUNNING: `reap_stale_runs` ends it later
        with suppress(MlflowException):
            record.tags({"error": str(error) or type(error).__name__})
            retry_on_conflict(
                lambda: client.set_terminated(
                    record.run_id, "FINISHED" if record.is_finished else "FAILED"
                )
            )
        raise
    record.finish()


def tag_call(client: MlflowClient, run_id: str | None, name: str, tags: Mapping[str, Any]) -> None:
    """Name and tag the run that `mlflow run` created for this call; do nothing if there is none.

    A later command deletes it, because the audit run has everything.

    Args:
        client: client of the store.
        run_id: id of that run, or None.
        name: name of the run.
        tags: tags to add.

    Raises:
        UserError: the run was not freshly created for this call.
    """
    if run_id is not None:
        check_given_run(client, run_id)
        tag_given_run(client, run_id, {**tags, STUB: "true"})
        name_given_run(client, run_id, name)


def read_log(client: MlflowClient, name: str) -> list[AuditEntry]:
    """Return the audit entries of a registered model, oldest first."""
    runs = _search_audit_runs(client, f"tags.`{model_tag(name)}` LIKE '%'")
    return sorted((_to_entry(run, name) for run in runs), key=lambda entry: entry.time)


def read_logs(client: MlflowClient) -> dict[str, list[AuditEntry]]:
    """Return the audit entries of all registered models by name, oldest first."""
    entries_by_name: dict[str, list[AuditEntry]] = {}
    for run in _search_audit_runs(client, ""):
        for tag in run.data.tags:
            if tag.startswith(MODEL):
                name = model_of_tag(tag, run.data.tags)
                entries_by_name.setdefault(name, []).append(_to_entry(run, name))
    return {
        name: sorted(entries, key=lambda entry: entry.time)
        for name, entries in entries_by_name.items()
    }


def previous_version(
    entries: Sequence[AuditEntry], stage: str, current: int | None, existing: Collection[int]
) -> int | None:
    """Return the version that a rollback restores; None if there is none.

    It follows the effective entries of the stage back from `current`, ignores earlier rollbacks,
    and skips versions that no longer exist.

    Args:
        entries: audit entries of a registered model, oldest first.
        stage: `production` or `staging`.
        current: version that holds the stage now, or None.
        existing: numbers of the versions that exist.
    """
    expected = current
    for entry in reversed(
        [entry for entry in entries if entry.is_effective(stage) and entry.action != "rollback"]
    ):
        if entry.after != expected:
            continue
        if entry.before is not None and entry.before in existing and entry.before != current:
            return entry.before
        expected = entry.before
    return None


def _search_audit_runs(client: MlflowClient, filter_string: str) -> list[Run]:
    """Return the audit runs that match a filter; [] if nothing was recorded yet."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    ids, view = [experiment.experiment_id], audit_view(experiment)
    return list(
        iter_pages(
            lambda token: client.search_runs(ids, filter_string, view, PAGE_SIZE, page_token=token)
        )
    )


def check_audit_experiment(tracking_uri: str) -> None:
    """Raise UserError if the audit experiment was deleted; the next change restores it."""
    experiment = MlflowClient(tracking_uri=tracking_uri).get_experiment_by_name(EXPERIMENT)
    if experiment is not None and experiment.lifecycle_stage != "active":
        experiment_id = experiment.experiment_id
        raise UserError(
            f"The experiment {EXPERIMENT} (id {experiment_id}), which holds the audit log, was "
            f"deleted. Restore it: mlflow experiments restore -x {experiment_id}"
        )


def audit_view(experiment: Experiment) -> int:
    """Return the runs to search in the audit experiment: all of them while it is deleted.

    MLflow deletes the runs of an experiment with it, and restores them with it.
    """
    is_active = experiment.lifecycle_stage == "active"
    return int(ViewType.ACTIVE_ONLY if is_active else ViewType.ALL)


def read_promotions(client: MlflowClient) -> dict[tuple[str, int], AuditEntry]:
    """Return the last conclusive promotion of each version to Production.

    Keys are name and number of the version. A promotion is conclusive if it finished, or if the
    policy was checked; one that a signal or an outage ended before is skipped.
    """
    runs = _search_audit_runs(client, "tags.action = 'promote' and tags.stage = 'production'")
    entries = [
        (name, _to_entry(run, name))
        for run in runs
        for tag in run.data.tags
        if tag.startswith(MODEL)
        for name in (model_of_tag(tag, run.data.tags),)
    ]
    by_time = sorted(entries, key=lambda pair: pair[1].time)
    conclusive = [
        pair for pair in by_time if pair[1].status == "FINISHED" or pair[1].refused is not None
    ]
    return {(name, entry.after): entry for name, entry in conclusive if entry.after is not None}


def _to_entry(run: Run, name: str) -> AuditEntry:
    """Return the audit entry of a run, as seen from the registered model `name`."""
    tags = run.data.tags
    return AuditEntry(
        run.info.run_id,
        datetime.fromtimestamp((run.info.end_time or run.info.start_time) / 1000).astimezone(),
        tags.get("action", ""),
        run.info.status,
        tags.get("mlflow.user", ""),
        tags.get("reason", ""),
        tags.get("stage", ""),
        _parse_number(tags.get("before")),
        _parse_number(tags.get("after")),
        BOOLEANS.get(tags.get(REFUSED, "")),
        tags.get("forced") == "True",
        tags.get(model_tag(name), ""),
    )


def _parse_number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
