"""Who did what in the registry, when and why: a run for each call, in an experiment of its own."""

from __future__ import annotations

import getpass
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.entities import AT_ONCE
from eyevsai.store.given_run import check_given_run
from eyevsai.store.paging import iter_pages
from eyevsai.store.tags import JOB

EXPERIMENT = "eyevsai-registry"
ABOUT = (
    "Each promotion, rollback and deletion: who, when, why, before and after. See: eyevsai "
    "registry log NAME"
)
MODEL = "model."  # begins a tag for each registered model that a call was about
CLEANUP = "cleanup"  # the action of a record that says what is deleted
REFUSED = "refused"  # the tag of a record that says whether the policy was against it
ANSWERS = {"True": True, "False": False}  # of such a tag
TAG_LENGTH = 5000


@dataclass(frozen=True)
class AuditEntry:
    """One call."""

    run_id: str
    time: datetime
    action: str  # promote, rollback, archive, found, pin, unpin or cleanup
    status: str  # FINISHED when it was done
    user: str
    reason: str
    stage: str
    before: int | None
    after: int | None
    # by the policy, whatever came of it then; None where it was not asked, or did not answer
    refused: bool | None
    forced: bool
    versions: str  # of this model, that the call was about

    def is_effective(self, stage: str) -> bool:
        """Whether it changed who holds a stage."""
        return self.status == "FINISHED" and self.stage == stage


@dataclass
class AuditRecord:
    """A call that is being recorded."""

    client: MlflowClient
    run_id: str
    is_done: bool = False

    def tags(self, values: Mapping[str, Any]) -> None:
        """Says more of the call."""
        told = [
            RunTag(name, str(value)[:TAG_LENGTH])
            for name, value in values.items()
            if value is not None
        ]
        retry_on_conflict(lambda: self.client.log_batch(self.run_id, tags=told))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Figures of what came before and after."""
        now = int(datetime.now(UTC).timestamp() * 1000)
        rows = [Metric(name, value, now, 0) for name, value in values.items()]
        retry_on_conflict(lambda: self.client.log_batch(self.run_id, metrics=rows))

    def finish(self) -> None:
        """Says that what it records was done, once; what fails after that changes nothing of it."""
        if not self.is_done:
            retry_on_conflict(lambda: self.client.set_terminated(self.run_id, "FINISHED"))
            self.is_done = True

    def json(self, name: str, content: Any) -> None:
        """A JSON artifact."""
        self.client.log_dict(self.run_id, content, name)


@contextmanager
def recording_audit(
    client: MlflowClient, action: str, title: str, tags: Mapping[str, Any]
) -> Iterator[AuditRecord]:
    """A record that ends as the block ends: FINISHED, or FAILED with the error."""
    origin = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "eyevsai",
        "mlflow.source.type": "LOCAL",
        JOB: "registry",
        "action": action,
    }
    told = {
        name: str(value)[:TAG_LENGTH]
        for name, value in (origin | dict(tags)).items()
        if value is not None
    }
    experiment_id = _experiment(client)
    run = retry_on_conflict(lambda: client.create_run(experiment_id, tags=told, run_name=title))
    record = AuditRecord(client, run.info.run_id)
    try:
        yield record
    except BaseException as error:
        with suppress(
            MlflowException
        ):  # while the store is unreachable: `reap_stale_runs` ends it later
            record.tags({"error": str(error) or type(error).__name__})
            retry_on_conflict(
                lambda: client.set_terminated(
                    record.run_id, "FINISHED" if record.is_done else "FAILED"
                )
            )
        raise
    record.finish()


def tag_call(client: MlflowClient, run_id: str | None, tags: Mapping[str, Any]) -> None:
    """Tag the run that `mlflow run` created for this call, if it did.

    Raises:
        UserError: the run is not a fresh one of this call.
    """
    if run_id is not None:
        check_given_run(client, run_id)
        client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])


def read_log(client: MlflowClient, name: str) -> list[AuditEntry]:
    """Return what was done to a registered model, in order of time."""
    runs = _records(client, f"tags.`{MODEL}{name}` LIKE '%'")
    return sorted((_entry(run, name) for run in runs), key=lambda entry: entry.time)


def read_logs(client: MlflowClient) -> dict[str, list[AuditEntry]]:
    """Return what was done to each registered model, by its name, in order of time."""
    found: dict[str, list[AuditEntry]] = {}
    for run in _records(client, ""):
        for tag in run.data.tags:
            if tag.startswith(MODEL):
                found.setdefault(tag.removeprefix(MODEL), []).append(
                    _entry(run, tag.removeprefix(MODEL))
                )
    return {name: sorted(entries, key=lambda entry: entry.time) for name, entries in found.items()}


def previous_version(
    entries: Sequence[AuditEntry], stage: str, current: int | None, there: Collection[int]
) -> int | None:
    """Return the version that `rollback` restores: that of a stage before `current`; further back
    if it is gone.

    Args:
        entries: the log of a registered model.
        stage: `production` or `staging`.
        current: the version that has the stage now.
        there: the numbers of the versions that exist.
    """
    wanted = current
    for entry in reversed(
        [entry for entry in entries if entry.is_effective(stage) and entry.action != "rollback"]
    ):
        if entry.after != wanted:
            continue
        if entry.before is not None and entry.before in there and entry.before != current:
            return entry.before
        wanted = entry.before
    return None


def _records(client: MlflowClient, wanted: str) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    ids = [experiment.experiment_id]
    return list(
        iter_pages(
            lambda token: client.search_runs(ids, wanted, max_results=AT_ONCE, page_token=token)
        )
    )


def read_promotions(client: MlflowClient) -> dict[tuple[str, int], AuditEntry]:
    """The last attempt to give Production to each version that was done, or that the policy
    answered, by the version's name and number: one that ended before, by a signal or an outage,
    says nothing of the version.
    """
    runs = _records(client, "tags.action = 'promote' and tags.stage = 'production'")
    entries = [
        (tag.removeprefix(MODEL), _entry(run, tag.removeprefix(MODEL)))
        for run in runs
        for tag in run.data.tags
        if tag.startswith(MODEL)
    ]
    ordered = sorted(entries, key=lambda pair: pair[1].time)
    told = [pair for pair in ordered if pair[1].status == "FINISHED" or pair[1].refused is not None]
    return {(name, entry.after): entry for name, entry in told if entry.after is not None}


def _entry(run: Run, name: str) -> AuditEntry:
    tags = run.data.tags
    return AuditEntry(
        run.info.run_id,
        datetime.fromtimestamp((run.info.end_time or run.info.start_time) / 1000).astimezone(),
        tags.get("action", ""),
        run.info.status,
        tags.get("mlflow.user", ""),
        tags.get("reason", ""),
        tags.get("stage", ""),
        _number(tags.get("before")),
        _number(tags.get("after")),
        ANSWERS.get(tags.get(REFUSED, "")),
        tags.get("forced") == "True",
        tags.get(f"{MODEL}{name}", ""),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        # somebody deleted it in the UI; what it says is still wanted
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(EXPERIMENT, tags={"mlflow.note.content": ABOUT}))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another process, just now
            raise
        return _experiment(client)
