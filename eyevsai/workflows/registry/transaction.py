"""Transaction on a registered model.

It first applies manual changes, is recorded in the audit log, and is shielded from signals.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import ModelRef
from eyevsai.core.shell import quote
from eyevsai.registry.audit_log import AuditRecord, read_log, recording_audit
from eyevsai.registry.audit_tags import model_tag
from eyevsai.registry.classes import record_classes, stage_prefix
from eyevsai.registry.descriptions import write_descriptions
from eyevsai.registry.entities import (
    Client,
    RegisteredModel,
    open_registry,
    read_model,
    tag_if_exists,
)
from eyevsai.registry.lookup import find_name, find_version
from eyevsai.registry.stages import STAGES, apply_manual_changes, assign_stage, stage_holder
from eyevsai.registry.versions import Version
from eyevsai.store.backend import raising_store_errors
from eyevsai.tracking.liveness import owner_tags
from eyevsai.workflows.job_context import job_context

if TYPE_CHECKING:
    from eyevsai.core.cancellation import CancellationToken


@contextmanager
def registry_transaction(
    model: str, state_dir: Path, run_id: str | None = None
) -> Iterator[RegistryTransaction]:
    """Yield a transaction on a registered model, after manual changes have been applied.

    Args:
        model: name of the registered model, or a reference to one of its versions.
        state_dir: folder of run state on this machine.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.

    Raises:
        UserError: there is no such model, or the server denies the access.
        JobError: the store failed, also inside the block.
    """
    with job_context(state_dir, run_id, creates_runs=False) as job:
        tracking_uri, stop = job.tracking_uri, job.stop
        with raising_store_errors(tracking_uri, f"Changing {model}"):
            client = open_registry(tracking_uri)
            name, number = find_name(tracking_uri, model)
            transaction = RegistryTransaction(tracking_uri, client, name, stop, number)
            transaction.apply_manual_changes()
            yield transaction


@dataclass(frozen=True)
class RegistryTransaction:
    """Operations on the registered model `name`; `stop` is the cancellation token of the job."""

    tracking_uri: str
    client: Client
    name: str
    stop: CancellationToken
    number: int | None = None  # of the version that the command named, if it did

    def model(self) -> RegisteredModel:
        """Return a snapshot of the registered model."""
        return read_model(self.client, self.name)

    def version(self, number: int) -> Version:
        """Return the version with a number."""
        reference = ModelRef(f"{self.name}/{number}", name=self.name, version=number)
        return find_version(self.tracking_uri, reference)

    def target(self, number: int | None) -> Version:
        """Return the version that the command named, in its reference or by `number`.

        Raises:
            UserError: it named none or two different ones, or the version does not exist.
        """
        if number is None and self.number is None:
            raise UserError(
                f"{self.name!r} names a registered model, but no version of it. Use NAME/VERSION; "
                f"list the versions with: eyevsai registry status {quote(self.name)}"
            )
        if None not in (number, self.number) and number != self.number:
            raise UserError(
                f"{self.name}/{self.number} and version {number} contradict each other. Omit one "
                "of them."
            )
        return self.version(int(number or self.number or 0))

    def current_version(self, stage: str) -> int | None:
        """Return the number of the version that holds a stage; None if none does."""
        return stage_holder(self.model(), stage).version

    def recording(
        self, action: str, title: str, tags: Mapping[str, Any]
    ) -> AbstractContextManager[AuditRecord]:
        """Return a context manager that records the block in the audit log.

        Args:
            action: one of the actions of `AuditEntry`.
            title: name of the audit run.
            tags: tags of the audit run, such as `stage`, `before`, `after` and `reason`.
        """
        versions = tags.get("after") or tags.get("before")
        all_tags = {"model": self.name, model_tag(self.name): versions, **owner_tags(), **tags}
        return recording_audit(self.client, action, title, all_tags)

    def apply_manual_changes(self) -> None:
        """Sync aliases and stages with what was set by hand, and complete the audit log.

        An entry is added for each stage whose holder is not that of the last entry: it was set by
        hand or by a command that was interrupted, the model was renamed, or the log was deleted.
        """
        model = self.model()
        by_hand = {stage: stage_holder(model, stage).by_hand for stage in STAGES}
        if any(by_hand.values()):
            apply_manual_changes(self.client, model)
            model = self.model()
        entries = read_log(self.client, self.name)
        for stage in STAGES:
            current = stage_holder(model, stage).version
            last = next((entry for entry in reversed(entries) if entry.is_effective(stage)), None)
            recorded = last.after if last else None
            if current != recorded:
                causes = [f"the {by_hand[stage]} was set by hand"] if by_hand[stage] else []
                causes += ["a command was interrupted"]
                if last is None and not by_hand[stage]:
                    causes += ["the model was renamed", "the audit log was deleted"]
                self._write_entry(stage, recorded, current, f"found: {', or '.join(causes)}")

    def assign_stage(
        self,
        record: AuditRecord,
        stage: str,
        number: int,
        reason: str | None,
        classes: Sequence[str] | None,
    ) -> int | None:
        """Assign a stage to a version, finish the record, and return the previous holder.

        Signals are deferred until this is complete. A version that moves from Staging to Production
        leaves Staging.

        Args:
            record: audit record of the call.
            stage: `production` or `staging`.
            number: number of the version.
            reason: reason, for a tag of the version.
            classes: classes of the version, recorded as those last promoted to the stage; None if
                unknown.

        Returns:
            Number of the previous holder; None if there was none.

        Raises:
            UserError: the version does not exist, or a cleanup is deleting it.
        """
        with self.stop.shielded():
            before = assign_stage(self.client, self.name, stage, number)
            if stage == "production" and self.model().aliases.get("staging") == number:
                assign_stage(self.client, self.name, "staging", None)
            record.tags({"before": before})
            record.finish()
            self.log_last_change(stage, before, number, reason)
            # unless another process has promoted another version meanwhile
            if classes and self.current_version(stage) == number:
                record_classes(self.client, self.name, classes, stage_prefix(stage))
        return before

    def log_last_change(
        self, stage: str, before: int | None, after: int | None, reason: str | None
    ) -> None:
        """Tag the new and the previous holder of a stage with the change, and describe them.

        Args:
            stage: stage that changed.
            before: previous holder, which is tagged with the end time; None if there was none.
            after: new holder, which is tagged with time, user and reason; None if there is none.
            reason: reason of the change.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if after is not None:
            values = {"at": now, "by": getpass.getuser(), "reason": reason or "", "until": ""}
            self.tag(after, {f"{stage}.{key}": value for key, value in values.items()})
        if before is not None and before != after:
            self.tag(before, {f"{stage}.until": now})
        changed = [number for number in (before, after) if number is not None]
        write_descriptions(self.client, self.name, changed)

    def tag(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version; do nothing if it does not exist."""
        tag_if_exists(self.client, self.name, version, tags)

    def _write_entry(self, stage: str, before: int | None, after: int | None, reason: str) -> None:
        """Add an audit entry for a change that was detected afterwards, and tag both holders."""
        tags = {"stage": stage, "before": before, "after": after, "reason": reason}
        with self.recording("found", f"{self.name} {after} found in {stage}", tags):
            self.log_last_change(stage, before, after, reason)
