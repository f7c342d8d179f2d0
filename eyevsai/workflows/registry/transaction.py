"""A change to a registered model: begun by taking over what was done by hand, written down, not
torn by signals.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.registry.audit_log import MODEL, AuditRecord, read_log, recording_audit
from eyevsai.registry.classes import record_classes, stage_prefix
from eyevsai.registry.entities import (
    Client,
    RegisteredModel,
    open_registry,
    read_model,
    tag_if_exists,
)
from eyevsai.registry.stages import STAGES, apply_manual_changes, assign_stage, stage_holder
from eyevsai.registry.versions import Version, find_version
from eyevsai.store.backend import raising_store_errors
from eyevsai.tracking.liveness import owner_tags
from eyevsai.workflows.job_context import job_context

if TYPE_CHECKING:
    from eyevsai.core.cancellation import CancellationToken


@contextmanager
def registry_transaction(
    name: str, state_dir: Path, run_id: str | None = None
) -> Iterator[RegistryTransaction]:
    """The change of one registered model; `run_id` is the run that `mlflow run` made for it, if one
    did.

    Raises:
        UserError: there is no such model, or the server refuses the login.
        JobError: the store went away.
    """
    with job_context(state_dir, run_id) as job:
        tracking_uri, stop = job.tracking_uri, job.stop
        with raising_store_errors(tracking_uri, f"Changing {name}"):
            change = RegistryTransaction(tracking_uri, open_registry(tracking_uri), name, stop)
            change.apply_manual_changes()
            yield change


@dataclass(frozen=True)
class RegistryTransaction:
    """A registered model that is being changed."""

    tracking_uri: str
    client: Client
    name: str
    stop: CancellationToken

    def model(self) -> RegisteredModel:
        """The model as it is now."""
        return read_model(self.client, self.name)

    def version(self, number: int) -> Version:
        """One of its versions."""
        return find_version(self.tracking_uri, f"models:/{self.name}/{number}")

    def current_version(self, stage: str) -> int | None:
        """The version that holds a stage now."""
        return stage_holder(self.model(), stage).version

    def recording(
        self, action: str, title: str, about: Mapping[str, Any]
    ) -> AbstractContextManager[AuditRecord]:
        """A record of what the block does."""
        versions = about.get("after") or about.get("before")
        tags = {"model": self.name, f"{MODEL}{self.name}": versions, **owner_tags(), **about}
        return recording_audit(self.client, action, title, tags)

    def apply_manual_changes(self) -> None:
        """Follows what was set by hand, and writes down what the log lacks: that, and what a killed
        command did.
        """
        model = self.model()
        by_hand = {stage: stage_holder(model, stage).by_hand for stage in STAGES}
        if any(by_hand.values()):
            apply_manual_changes(self.client, model)
            model = self.model()
        entries = read_log(self.client, self.name)
        for stage in STAGES:
            held = stage_holder(model, stage).version
            known = next(
                (entry.after for entry in reversed(entries) if entry.is_effective(stage)), None
            )
            if held != known:
                how = f"the {by_hand[stage]} was set by hand, or " if by_hand[stage] else ""
                self._write_entry(
                    stage, known, held, f"found: {how}by a command that was interrupted"
                )

    def assign_stage(
        self,
        record: AuditRecord,
        stage: str,
        number: int,
        reason: str | None,
        classes: Sequence[str] | None,
    ) -> int | None:
        """Gives a stage to a version and ends the record, whatever signal comes; returns who held
        it before.

        The registered model records the version's `classes` as those that were promoted to the
        stage.
        """
        with self.stop.shielded():
            before = assign_stage(self.client, self.name, stage, number)
            if stage == "production" and self.model().aliases.get("staging") == number:
                assign_stage(self.client, self.name, "staging", None)
            record.tags({"before": before})
            record.finish()
            self.log_last_change(stage, before, number, reason)
            # and nobody else has promoted another one meanwhile
            if classes and self.current_version(stage) == number:
                record_classes(self.client, self.name, classes, stage_prefix(stage))
        return before

    def log_last_change(
        self, stage: str, before: int | None, after: int | None, reason: str | None
    ) -> None:
        """Tags of two versions: since when one holds a stage, by whom and why, and until when the
        other did.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if after is not None:
            told = {"at": now, "by": getpass.getuser(), "reason": reason or "", "until": ""}
            self.tag(after, {f"{stage}.{key}": value for key, value in told.items()})
        if before is not None and before != after:
            self.tag(before, {f"{stage}.until": now})

    def tag(self, version: int, tags: Mapping[str, str]) -> None:
        """Sets tags of a version, if it is still there."""
        tag_if_exists(self.client, self.name, version, tags)

    def _write_entry(self, stage: str, before: int | None, after: int | None, reason: str) -> None:
        about = {"stage": stage, "before": before, "after": after, "reason": reason}
        with self.recording("found", f"{self.name} {after} found in {stage}", about):
            self.log_last_change(stage, before, after, reason)
