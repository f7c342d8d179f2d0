"""Which version is in Production or in Staging.

MLflow keeps a stage with each version, so two can be in Production; an alias is one row of the
model, and points at one version only. So the alias is the truth: it is set first, and stages are
led after it until it has not moved meanwhile. A tag of the model says what was last written here.
What differs from it was set by hand, in MLflow's UI, and counts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.audit_log import AuditEntry, previous_version
from eyevsai.registry.entities import KnownVersion, RegisteredModel, read_model
from eyevsai.store.backend import MISSING

STAGES = {"production": "Production", "staging": "Staging"}  # by alias; of two the first counts
ARCHIVED = "archived"
NONE = ""
# the tag of a model that names versions about to be deleted, and of such a run
DELETING = "eyevsai.deleting"


@dataclass(frozen=True)
class StageHolder:
    """The version that a stage belongs to, None for nobody; `by_hand`: the alias or the stage was
    set by hand.
    """

    version: int | None
    by_hand: str | None = None


def stage_holder(model: RegisteredModel, stage: str) -> StageHolder:
    """Who holds `production` or `staging`; a version with both aliases is in Production."""
    if stage != "production" and model.aliases.get(stage) == model.aliases.get("production", NONE):
        return StageHolder(None)
    alias, known = model.aliases.get(stage), recorded_version(model, stage)
    staged = [version for version in model.versions if version.stage == STAGES[stage]]
    if alias != known:
        return StageHolder(alias, "alias")
    others = [version for version in staged if version.number != alias]
    if others:
        return StageHolder(max(others, key=lambda version: version.changed_ms).number, "stage")
    if alias is not None and not staged:
        return StageHolder(None, "stage")
    return StageHolder(alias)


def rollback_targets(model: RegisteredModel, entries: Sequence[AuditEntry]) -> dict[int, str]:
    """Return the versions that a rollback of each stage would restore, with the stage."""
    there = {version.number for version in model.versions}
    found = {
        previous_version(entries, stage, stage_holder(model, stage).version, there): stage
        for stage in reversed(STAGES)
    }
    return {number: stage for number, stage in found.items() if number is not None}


def stage_of(model: RegisteredModel, number: int) -> str | None:
    """The stage that a version holds; None when it holds none."""
    return next((stage for stage in STAGES if stage_holder(model, stage).version == number), None)


def stage_of_uri(uri: str) -> str | None:
    """Return the stage that `models:/NAME@ALIAS` or `models:/NAME/STAGE` names; None if it names
    none.
    """
    named = re.split("[@/]", uri)[-1]
    return next((alias for alias, title in STAGES.items() if named in (alias, title)), None)


def find_inconsistencies(model: RegisteredModel) -> list[str]:
    """What aliases, stages and this module's notes say otherwise of one another, in words."""
    found = []
    for stage, title in STAGES.items():
        holder, alias = stage_holder(model, stage), model.aliases.get(stage)
        if holder.by_hand is None:
            continue
        staged = (
            ", ".join(str(version.number) for version in model.versions if version.stage == title)
            or "none"
        )
        found.append(
            f"{model.name}: alias {stage} is {alias or 'none'}, stage {title} {staged}; the "
            f"{holder.by_hand} was set "
            f"by hand and counts. Lead the other after it: eyevsai registry reconcile {model.name}"
        )
    return found


def assign_stage(client: MlflowClient, name: str, stage: str, version: int | None) -> int | None:
    """Gives a stage to one version, or to nobody, whatever others do at the same time; returns who
    had it.

    Raises:
        UserError: the version is gone, or about to go; who had the stage has it again.
    """
    before = _as_number(client.get_registered_model(name).aliases.get(stage))
    if version is None:
        retry_on_conflict(lambda: client.delete_registered_model_alias(name, stage))
    else:
        _set_alias(client, name, stage, version)
        model = read_model(client, name)  # asked after: of this and a cleanup, one sees the other
        if version in reserved_versions(model.tags) or version not in {
            each.number for each in model.versions
        }:
            assign_stage(client, name, stage, None if before == version else before)
            raise UserError(
                f"models:/{name}/{version} is being deleted by a cleanup. Choose another version."
            )
    sync_stages(client, name)
    return before


def reserved_versions(tags: Mapping[str, str]) -> frozenset[int]:
    """The versions that a cleanup is about to delete, by the tags of their registered model."""
    return frozenset(map(int, tags.get(DELETING, "").split()))


def sync_stages(client: MlflowClient, name: str) -> None:
    """Set each version's stage from the aliases; repeat if an alias was changed concurrently.

    All stages each time: of two processes that set different ones, the second may have taken a
    version from the first.
    """
    model = read_model(client, name)
    while True:
        for version in model.versions:
            due = _due_stage(model, version)
            if due != version.stage:
                _transition(client, name, version.number, due)
        for stage in STAGES:
            told = _word(model.aliases.get(stage))
            if model.tags.get(_tag(stage), NONE) != told:
                retry_on_conflict(partial(client.set_registered_model_tag, name, _tag(stage), told))
        before, model = model, read_model(client, name)
        if model.aliases == before.aliases and all(
            _due_stage(model, each) == each.stage for each in model.versions
        ):
            return


def apply_manual_changes(client: MlflowClient, model: RegisteredModel) -> None:
    """Leads aliases after stages that were set by hand, then stages after aliases."""
    for stage in STAGES:
        holder = stage_holder(model, stage)
        if holder.by_hand != "stage":
            continue
        if holder.version is None:
            retry_on_conflict(partial(client.delete_registered_model_alias, model.name, stage))
        else:
            _set_alias(client, model.name, stage, holder.version)
    sync_stages(client, model.name)


def _due_stage(model: RegisteredModel, version: KnownVersion) -> str:
    """The stage that a version ought to have by the aliases of its model."""
    held = next(
        (title for stage, title in STAGES.items() if model.aliases.get(stage) == version.number),
        None,
    )
    return held or ("Archived" if version.stage in STAGES.values() else version.stage)


def archive(client: MlflowClient, name: str, version: int) -> None:
    """Takes a version out of whatever stage it holds."""
    model = read_model(client, name)
    for stage in STAGES:
        if model.aliases.get(stage) == version:
            assign_stage(client, name, stage, None)
    _transition(client, name, version, "Archived")


def _set_alias(client: MlflowClient, name: str, alias: str, version: int) -> None:
    try:
        retry_on_conflict(lambda: client.set_registered_model_alias(name, alias, str(version)))
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        raise UserError(f"There is no models:/{name}/{version}, or no longer.") from error


def _transition(client: MlflowClient, name: str, version: int, stage: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # stages are on their way out of MLflow
            retry_on_conflict(
                lambda: client.transition_model_version_stage(name, str(version), stage)
            )
    except MlflowException as error:
        # deleted meanwhile: the next look at the model says so
        if error.error_code != MISSING:
            raise


def _as_number(version: str | int | None) -> int | None:
    return None if version is None else int(version)


def _word(version: int | None) -> str:
    return NONE if version is None else str(version)


def _tag(stage: str) -> str:
    return f"eyevsai.{stage}"


def recorded_version(model: RegisteredModel, stage: str) -> int | None:
    """The version to which this module last gave a stage."""
    kept = model.tags.get(_tag(stage), NONE)
    return int(kept) if kept.isdecimal() else None
