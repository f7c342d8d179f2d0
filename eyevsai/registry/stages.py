"""Stages of registered models: which versions are in Production and in Staging.

MLflow stores a stage with each version, so that two versions can be in Production. An alias is one
row of the model, and refers to one version only. Therefore the alias is authoritative: it is set
first, and stages are synced with the aliases until no alias changes meanwhile. Tags of the model
record the last assignment by this module. What differs from them was set by hand in MLflow's UI,
and takes precedence.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.core.shell import quote
from eyevsai.registry.audit_log import AuditEntry, previous_version
from eyevsai.registry.entities import KnownVersion, RegisteredModel, read_model
from eyevsai.store.backend import MISSING

STAGES = {"production": "Production", "staging": "Staging"}  # by alias, in order of precedence
ARCHIVED = "archived"
NONE = ""  # tag value of a stage that no version holds
# tag of a model: the versions that a cleanup is deleting; tag of a run that it is deleting
DELETING = "eyevsai.deleting"


@dataclass(frozen=True)
class StageHolder:
    """Version that holds a stage; None if no version does.

    `by_hand` is `alias` or `stage` if that was set or removed by hand, else None.
    """

    version: int | None
    by_hand: str | None = None


def stage_holder(model: RegisteredModel, stage: str) -> StageHolder:
    """Return the holder of `production` or `staging`.

    A version with both aliases is in Production only. An alias that was set by hand takes
    precedence over stages. Of several versions that were moved to the stage by hand, the last
    changed one holds it.
    """
    if stage != "production" and model.aliases.get(stage) == model.aliases.get("production", NONE):
        return StageHolder(None)
    alias, recorded = model.aliases.get(stage), recorded_version(model, stage)
    staged = [version for version in model.versions if version.stage == STAGES[stage]]
    if alias != recorded:
        return StageHolder(alias, "alias")
    others = [version for version in staged if version.number != alias]
    if others:
        return StageHolder(max(others, key=lambda version: version.changed_ms).number, "stage")
    if alias is not None and not staged:
        return StageHolder(None, "stage")
    return StageHolder(alias)


def rollback_targets(model: RegisteredModel, entries: Sequence[AuditEntry]) -> dict[int, str]:
    """Return the versions that a rollback of each stage would restore, with the stage.

    `entries` are those of the model, oldest first. Deleted versions are skipped. A version that
    both stages would restore has `production`.
    """
    existing = {version.number for version in model.versions}
    targets = {
        previous_version(entries, stage, stage_holder(model, stage).version, existing): stage
        for stage in reversed(STAGES)
    }
    return {number: stage for number, stage in targets.items() if number is not None}


def stage_of(model: RegisteredModel, number: int) -> str | None:
    """Return the stage that a version holds, `production` or `staging`; None if it holds none."""
    return next((stage for stage in STAGES if stage_holder(model, stage).version == number), None)


def stage_of_uri(uri: str) -> str | None:
    """Return the stage in `models:/NAME@ALIAS` or `models:/NAME/STAGE`; None if there is none.

    The stage is `production` or `staging`. Only the text after the last `@` or `/` is read, so that
    `uri` must be the URI of a version.
    """
    suffix = re.split("[@/]", uri)[-1]
    return next((alias for alias, title in STAGES.items() if suffix in (alias, title)), None)


def find_inconsistencies(model: RegisteredModel, stages: Collection[str] = STAGES) -> list[str]:
    """Describe mismatches between aliases, stages and the recorded state; [] if there are none.

    Only `stages` are compared.
    """
    inconsistencies = []
    for stage in stages:
        title, holder, alias = STAGES[stage], stage_holder(model, stage), model.aliases.get(stage)
        if holder.by_hand is None:
            continue
        staged = (
            ", ".join(str(version.number) for version in model.versions if version.stage == title)
            or "none"
        )
        inconsistencies.append(
            f"{model.name}: alias {stage} is {alias or 'none'}, stage {title} is {staged}; the "
            f"{holder.by_hand} was set by hand and takes precedence. Sync the other with: "
            f"eyevsai registry reconcile {quote(model.name)}"
        )
    return inconsistencies


def assign_stage(client: MlflowClient, name: str, stage: str, version: int | None) -> int | None:
    """Assign a stage to one version, or to none, and return the version that had its alias before.

    Concurrent calls are safe: the last one wins. The version keeps an alias for the other stage.
    Stages that were set by hand are overwritten: call `apply_manual_changes` first.

    Args:
        client: client of the store.
        name: name of the registered model.
        stage: `production` or `staging`.
        version: number of the version; None for no version.

    Raises:
        UserError: the version does not exist, or a cleanup is deleting it. The previous holder is
            unchanged or restored.
        MlflowException: the registered model does not exist.
    """
    before = _as_number(client.get_registered_model(name).aliases.get(stage))
    if version is None:
        retry_on_conflict(lambda: client.delete_registered_model_alias(name, stage))
    else:
        _set_alias(client, name, stage, version)
        # read after the alias is set: either this sees the reservation of a cleanup, or the
        # cleanup sees the alias
        model = read_model(client, name)
        if version in reserved_versions(model.tags) or version not in {
            each.number for each in model.versions
        }:
            assign_stage(client, name, stage, None if before == version else before)
            uri = f"models:/{name}/{version}"
            raise reservation_error(uri)
    sync_stages(client, name)
    return before


def reservation_error(uri: str) -> UserError:
    """Return the error for the use of a version that a cleanup is deleting."""
    return UserError(f"{uri} is being deleted by a cleanup. Choose another version.")


def reserved_versions(tags: Mapping[str, str]) -> frozenset[int]:
    """Return the versions that a cleanup is deleting, from the tags of their model."""
    return frozenset(map(int, tags.get(DELETING, "").split()))


def sync_stages(client: MlflowClient, name: str) -> None:
    """Set each version's stage from the aliases; repeat if an alias changed concurrently.

    Also records the aliases in the model's tags, and overwrites stages that were set by hand. All
    stages are synced each time: if two processes assign different stages, the second may have taken
    a version from the first.
    """
    model = read_model(client, name)
    while True:
        for version in model.versions:
            expected = _expected_stage(model, version)
            if expected != version.stage:
                _transition(client, name, version.number, expected)
        for stage in STAGES:
            value = _to_tag_value(model.aliases.get(stage))
            if model.tags.get(_tag_name(stage), NONE) != value:
                retry_on_conflict(
                    partial(client.set_registered_model_tag, name, _tag_name(stage), value)
                )
        before, model = model, read_model(client, name)
        if model.aliases == before.aliases and all(
            _expected_stage(model, each) == each.stage for each in model.versions
        ):
            return


def apply_manual_changes(client: MlflowClient, model: RegisteredModel) -> None:
    """Set aliases from the stages that were set by hand, then sync stages with aliases.

    `model` is the current state, and outdated afterwards.

    Raises:
        UserError: a version whose stage was set by hand was deleted meanwhile.
    """
    for stage in STAGES:
        holder = stage_holder(model, stage)
        if holder.by_hand != "stage":
            continue
        if holder.version is None:
            retry_on_conflict(partial(client.delete_registered_model_alias, model.name, stage))
        else:
            _set_alias(client, model.name, stage, holder.version)
    sync_stages(client, model.name)


def _expected_stage(model: RegisteredModel, version: KnownVersion) -> str:
    """Return the stage that a version should have by the aliases of its model.

    A version in a stage without its alias becomes Archived; other versions keep their stage.
    """
    assigned = next(
        (title for stage, title in STAGES.items() if model.aliases.get(stage) == version.number),
        None,
    )
    return assigned or ("Archived" if version.stage in STAGES.values() else version.stage)


def archive(client: MlflowClient, name: str, version: int) -> None:
    """Move a version to Archived, and remove it from the stages that it holds.

    Does nothing if the version does not exist.

    Args:
        client: client of the store.
        name: name of the registered model.
        version: number of the version.
    """
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
        raise UserError(f"There is no models:/{name}/{version}.") from error


def _transition(client: MlflowClient, name: str, version: int, stage: str) -> None:
    """Set the stage of a version; do nothing if the version does not exist."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MLflow has deprecated stages
            retry_on_conflict(
                lambda: client.transition_model_version_stage(name, str(version), stage)
            )
    except MlflowException as error:
        # a version that was deleted meanwhile is missing when the model is read again
        if error.error_code != MISSING:
            raise


def _as_number(version: str | int | None) -> int | None:
    return None if version is None else int(version)


def _to_tag_value(version: int | None) -> str:
    return NONE if version is None else str(version)


def _tag_name(stage: str) -> str:
    return f"eyevsai.{stage}"


def recorded_version(model: RegisteredModel, stage: str) -> int | None:
    """Return the version that this module last assigned to a stage; None if there is none."""
    number = model.tags.get(_tag_name(stage), NONE)
    return int(number) if number.isdecimal() else None
