"""What is in the registry, what was, and which of all models of a dataset is the best."""

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
    """All versions that were asked for, and what disagrees."""

    versions: list[dict[str, Any]]
    disagreements: list[str]


def read_status(name: str | None) -> Status:
    """Versions of one registered model or of all: stages, aliases, figures, who and when.

    Raises:
        UserError: there is no such model.
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
    return Status(rows, [found for model in models for found in find_inconsistencies(model)])


def _tags_of(tracking_uri: str, version: KnownVersion) -> Mapping[str, str]:
    """What a version says; one that points at another says what that one does, too."""
    return (
        find_version(tracking_uri, version.uri).tags
        if SOURCE_VERSION in version.tags
        else version.tags
    )


def _describe(
    model: RegisteredModel, version: KnownVersion, tags: Mapping[str, str]
) -> dict[str, Any]:
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
        "size_bytes": read_whole(tags.get(SIZE)),
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
    """The finite number that a tag holds; None where it holds none, as somebody may write there in
    MLflow's UI.
    """
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_whole(text: str | None) -> int | None:
    """The whole number that a tag holds; None where it holds no number."""
    value = read_number(text)
    return None if value is None else int(value)


def read_entries(name: str) -> list[AuditEntry]:
    """What was done to a registered model, oldest first.

    Raises:
        UserError: nothing ever was, and there is no such model.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        client = open_registry(tracking_uri)
        found = read_log(client, name)
        if not found:
            read_model(client, name)
    return found


def version_at(
    entries: Sequence[AuditEntry], when: str, stage: str = "production"
) -> list[tuple[datetime, int | None]]:
    """Which versions held a stage at a time, or on a day, and since when: the one at its beginning,
    then each change.

    Raises:
        UserError: `when` is no date.
    """
    try:
        given = datetime.fromisoformat(when)
    except ValueError as error:
        raise UserError(
            f"--at {when!r} is no date: write 2026-03-03, or 2026-03-03T14:20."
        ) from error
    begin, is_day = given.astimezone(), len(when) <= len("2026-03-03")
    end = (given + timedelta(days=1)).astimezone() if is_day else begin
    done = [entry for entry in entries if entry.is_effective(stage) and entry.time <= end]
    before = [entry for entry in done if entry.time <= begin]
    return [
        (entry.time, entry.after)
        for entry in (*before[-1:], *(entry for entry in done if entry.time > begin))
    ]
