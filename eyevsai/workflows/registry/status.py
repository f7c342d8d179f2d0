"""Workflows of `registry status` and `registry log`: current state and history of the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from eyevsai.core.model_ref import ModelRef
from eyevsai.registry.audit_log import AuditEntry, read_log
from eyevsai.registry.entities import (
    KnownVersion,
    RegisteredModel,
    open_registry,
    read_model,
    read_models,
)
from eyevsai.registry.lookup import find_name, find_version
from eyevsai.registry.stages import find_inconsistencies, stage_holder, stage_of
from eyevsai.registry.versions import PINNED, REGISTERED_BY, SIZE, TESTED, exports_of
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.tags import SOURCE_VERSION
from eyevsai.workflows.registry.times import parse_time


@dataclass(frozen=True)
class Status:
    """Versions of registered models, and mismatches between aliases and stages."""

    versions: list[dict[str, Any]]
    disagreements: list[str]


def read_status(model: str | None) -> Status:
    """Return the versions of one registered model, or of all if `model` is None, newest first.

    `model` is a name, or a reference to a version, which is then the only one returned.

    Raises:
        UserError: there is no such model or version.
        JobError: the store failed.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        client = open_registry(tracking_uri)
        name, number = (None, None) if model is None else find_name(tracking_uri, model)
        if name is not None and number is not None:
            find_version(tracking_uri, ModelRef(str(model), name=name, version=number))
        models = read_models(client) if name is None else [read_model(client, name)]
        rows = [
            _describe(entity, each, _tags_of(tracking_uri, each))
            for entity in models
            for each in reversed(entity.versions)
            if number in (None, each.number)
        ]
    inconsistencies = [each for entity in models for each in find_inconsistencies(entity)]
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
        "floor": tags.get(f"{stage}.floor"),
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


def read_entries(model: str) -> tuple[str, list[AuditEntry]]:
    """Return the name of a registered model, and its audit entries, oldest first.

    A reference to a version selects the entries that concern the version.

    Raises:
        UserError: there is no such model, and there are no entries of a deleted one.
        JobError: the store failed.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        client = open_registry(tracking_uri)
        name, number = find_name(tracking_uri, model)
        entries = read_log(client, name)
        if not entries:  # raise an error if the model does not exist
            read_model(client, name)
    return name, [each for each in entries if number is None or each.concerns(number)]


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
    parsed = parse_time(when)
    begin, is_day = parsed.astimezone(), len(when) <= len("2026-03-03")
    end = (parsed + timedelta(days=1)).astimezone() if is_day else begin
    changes = [entry for entry in entries if entry.is_effective(stage) and entry.time <= end]
    before = [entry for entry in changes if entry.time <= begin]
    return [
        (entry.time, entry.after)
        for entry in (*before[-1:], *(entry for entry in changes if entry.time > begin))
    ]
