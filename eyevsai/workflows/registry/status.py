"""Workflows of `registry status` and `registry log`: current state and history of the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.registry.audit_log import AuditEntry, read_log
from eyevsai.registry.entities import (
    KnownVersion,
    RegisteredModel,
    open_registry,
    read_model,
    read_models,
)
from eyevsai.registry.stages import find_inconsistencies, stage_holder, stage_of
from eyevsai.registry.versions import PINNED, REGISTERED_BY, SIZE, TESTED, exports_of, find_version
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.tags import SOURCE_VERSION


@dataclass(frozen=True)
class Status:
    """Versions of registered models, and mismatches between aliases and stages."""

    versions: list[dict[str, Any]]
    disagreements: list[str]


def read_status(name: str | None) -> Status:
    """Return the versions of one registered model, or of all if `name` is None, newest first.

    Raises:
        UserError: there is no such model.
        JobError: the store failed.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        client = open_registry(tracking_uri)
        models = read_models(client) if name is None else [read_model(client, name)]
        tags = partial(_tags_of, tracking_uri)
        rows = [
            _describe(model, each, tags(each))
            for model in models
            for each in reversed(model.versions)
        ]
    inconsistencies = [each for model in models for each in find_inconsistencies(model)]
    return Status(rows, inconsistencies)


def _tags_of(tracking_uri: str, version: KnownVersion) -> Mapping[str, str]:
    """Return a version's tags, including those of the version that it references."""
    return (
        find_version(tracking_uri, version.uri).tags
        if SOURCE_VERSION in version.tags
        else version.tags
    )


def _describe(
    model: RegisteredModel, version: KnownVersion, tags: Mapping[str, str]
) -> dict[str, Any]:
    """Return the row of a version; `tags` includes those of the version that it references."""
    stage = stage_of(model, version.number)
    archived = "archived" if version.stage == "Archived" else ""
    return {
        "name": version.name,
        "version": version.number,
        "stage": stage or archived,
        "mlflow_stage": version.stage,
        "by_hand": stage is not None and stage_holder(model, stage).by_hand is not None,
        "aliases": list(version.aliases),
        "accuracy": read_number(tags.get(TESTED)),
        "valid_accuracy": read_number(tags.get("accuracy")),
        "exports": exports_of(tags),
        "size_bytes": read_integer(tags.get(SIZE)),
        "pinned": tags.get(PINNED) or None,
        "source_version": tags.get(SOURCE_VERSION),
        "run_id": version.run_id,
        "registered": datetime.fromtimestamp(version.created_ms / 1000)
        .astimezone()
        .isoformat(timespec="seconds"),
        "registered_by": tags.get(REGISTERED_BY),
        "promoted": tags.get(f"{stage}.at"),
        "promoted_by": tags.get(f"{stage}.by"),
        "reason": tags.get(f"{stage}.reason"),
    }


def read_number(text: str | None) -> float | None:
    """Return the value of a tag as a finite number; None if it is missing or not such a number.

    Users may edit tags in MLflow's UI.
    """
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_integer(text: str | None) -> int | None:
    """Return the value of a tag as an integer, rounded towards zero; None if it is not a number."""
    value = read_number(text)
    return None if value is None else int(value)


def read_entries(name: str) -> list[AuditEntry]:
    """Return the audit entries of a registered model, oldest first; [] if it has none.

    Raises:
        UserError: there is no such model, and there are no entries of a deleted one.
        JobError: the store failed.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        client = open_registry(tracking_uri)
        entries = read_log(client, name)
        if not entries:  # raise an error if the model does not exist
            read_model(client, name)
    return entries


def version_at(
    entries: Sequence[AuditEntry], when: str, stage: str = "production"
) -> list[tuple[datetime, int | None]]:
    """Return the versions that held a stage at a time or on a day, and since when.

    Args:
        entries: audit entries of the registered model, oldest first.
        when: time or date in ISO 8601; local unless it has an offset.
        stage: `production` or `staging`.

    Returns:
        Time of the change and new version (None for no version): the last change until `when`, or
        until the beginning of the day, then each change on that day. Empty if there is none.

    Raises:
        UserError: `when` is not a date or time.
    """
    try:
        parsed = datetime.fromisoformat(when)
    except ValueError as error:
        raise UserError(
            f"--at {when!r} is not a date or time. Use 2026-03-03 or 2026-03-03T14:20."
        ) from error
    begin, is_day = parsed.astimezone(), len(when) <= len("2026-03-03")
    end = (parsed + timedelta(days=1)).astimezone() if is_day else begin
    changes = [entry for entry in entries if entry.is_effective(stage) and entry.time <= end]
    before = [entry for entry in changes if entry.time <= begin]
    return [
        (entry.time, entry.after)
        for entry in (*before[-1:], *(entry for entry in changes if entry.time > begin))
    ]
