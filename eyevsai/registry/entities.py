"""Snapshots of registered models and their versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry import RegisteredModel as Entity
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import format_version, parse_version_uri
from eyevsai.core.names import nearest
from eyevsai.core.retry import retry_on_conflict
from eyevsai.store.backend import MISSING, MISSING_OR_INVALID
from eyevsai.store.paging import PAGE_SIZE, iter_pages

Client = MlflowClient
SHOWN_NAMES = 20  # registered models in an error message
LOGGED_MODEL_URI = re.compile(r"models:/(m-[0-9a-f]+)")
# raised while the store is unreachable or read-only
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)


@dataclass(frozen=True)
class KnownVersion:
    """Snapshot of a version."""

    name: str
    number: int
    run_id: str
    model_id: str  # of its logged model; empty if it has none
    stage: str  # MLflow's: None, Staging, Production or Archived
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created_ms: int
    changed_ms: int
    # True if MLflow copied it from a version of another registered model
    is_copy: bool = False
    description: str = ""

    @property
    def uri(self) -> str:
        """URI `models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.number}"

    @property
    def argument(self) -> str:
        """`NAME/VERSION`, quoted for a shell, as the commands take it."""
        return format_version(self.name, self.number)


@dataclass(frozen=True)
class RegisteredModel:
    """Snapshot of a registered model with all its versions, oldest first."""

    name: str
    tags: Mapping[str, str]
    aliases: Mapping[str, int]
    versions: tuple[KnownVersion, ...]
    description: str = ""


def open_registry(tracking_uri: str) -> Client:
    """Return a client of the store that contains runs and versions."""
    return MlflowClient(tracking_uri=tracking_uri)


def read_model(client: MlflowClient, name: str) -> RegisteredModel:
    """Return the registered model `name`.

    Raises:
        UserError: the name is invalid, or there is no such model; the error suggests the nearest
            name.
    """
    if not name.strip() or re.search("[/:]", name):
        raise UserError(
            f"{name!r} is not the name of a registered model: MLflow allows neither / nor : in it. "
            "`eyevsai registry status` lists the names."
        )
    try:
        entity = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in MISSING_OR_INVALID:
            raise
        raise missing_model(client, name) from error
    return _join(entity, iter_versions_of(client, name))


def missing_model(client: MlflowClient, name: str) -> UserError:
    """Return the error for a registered model that does not exist, with the nearest names."""
    names = sorted(each.name for each in iter_models(client))
    guess = nearest(name, names)
    hint = f" Did you mean {guess!r}?" if guess else ""
    shown = ", ".join(map(repr, names[:SHOWN_NAMES])) or "none"
    rest = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return UserError(
        f"There is no registered model {name!r}.{hint} Registered models: {shown}{rest}; "
        "`eyevsai registry status` lists their versions."
    )


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return the registered model of this name; None if there is none."""
    try:
        entity = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None
    return _join(entity, iter_versions_of(client, name))


def read_models(client: MlflowClient) -> list[RegisteredModel]:
    """Return all registered models, sorted by name.

    This takes two searches, however many models there are.
    """
    versions: dict[str, list[ModelVersion]] = {}
    for version in iter_versions(client, None):
        versions.setdefault(version.name, []).append(version)
    return sorted(
        (_join(entity, versions.get(entity.name, ())) for entity in iter_models(client)),
        key=lambda model: model.name,
    )


def tag_if_exists(client: Client, name: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of a version; do nothing if it does not exist.

    Args:
        client: client of the store.
        name: name of the registered model.
        version: number of the version.
        tags: tags to set.
    """
    try:
        for key, value in tags.items():
            retry_on_conflict(partial(client.set_model_version_tag, name, str(version), key, value))
    except MlflowException as error:
        if error.error_code != MISSING:
            raise


def logged_model_of(source: str | None) -> str:
    """Return the id of the logged model that is the source of a version.

    Empty if the source is missing or is not a `models:/` URI of a logged model.
    """
    match = LOGGED_MODEL_URI.fullmatch(source or "")
    return match[1] if match else ""


def iter_models(client: MlflowClient) -> Iterator[Entity]:
    """Yield all registered models."""
    return iter_pages(
        lambda token: client.search_registered_models(max_results=PAGE_SIZE, page_token=token)
    )


def iter_versions(client: MlflowClient, filter_string: str | None) -> Iterator[ModelVersion]:
    """Yield the versions that match a filter of `search_model_versions`; all if it is None."""
    return iter_pages(
        lambda token: client.search_model_versions(
            filter_string, max_results=PAGE_SIZE, page_token=token
        )
    )


def iter_versions_of(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    """Yield the versions of a registered model.

    MLflow's filters have no escape sequences: each character that could end the text is replaced by
    the wildcard `_`, which may match other names, too.
    """
    pattern = re.sub(r"[^\w .-]", "_", name)
    comparison = f"= '{name}'" if pattern == name else f"LIKE '{pattern}'"
    versions = iter_versions(client, f"name {comparison}")
    return (version for version in versions if version.name == name)


def _join(entity: Entity, versions: Iterable[ModelVersion]) -> RegisteredModel:
    """Return the snapshot of a registered model and its versions."""
    aliases = {alias: int(version) for alias, version in entity.aliases.items()}
    aliases_by_version: dict[int, tuple[str, ...]] = {}
    for alias, number in sorted(aliases.items()):
        aliases_by_version[number] = (*aliases_by_version.get(number, ()), alias)
    snapshots = (
        replace(to_snapshot(each), aliases=aliases_by_version.get(int(each.version), ()))
        for each in versions
    )
    return RegisteredModel(
        entity.name,
        dict(entity.tags),
        aliases,
        tuple(sorted(snapshots, key=lambda version: version.number)),
        entity.description or "",
    )


def to_snapshot(version: ModelVersion) -> KnownVersion:
    """Return the snapshot of a version, without its aliases."""
    return KnownVersion(
        version.name,
        int(version.version),
        version.run_id or "",
        logged_model_of(version.source),
        version.current_stage or "None",
        (),
        dict(version.tags),
        int(version.creation_timestamp or 0),
        int(version.last_updated_timestamp or 0),
        is_copy=parse_version_uri(version.source or "") is not None,
        description=version.description or "",
    )
