"""What the registry knows of a registered model and its versions, read at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry import RegisteredModel as Entity
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from eyevsai.core.errors import UserError
from eyevsai.core.names import REGISTERED, choose
from eyevsai.core.retry import retry_on_conflict
from eyevsai.store.backend import MISSING, MISSING_OR_INVALID
from eyevsai.store.paging import iter_pages

Client = MlflowClient
LOGGED = re.compile(r"models:/(m-[0-9a-f]+)")
AT_ONCE = 1000  # of one answer
# of a store that is away, or cannot be written
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)


@dataclass(frozen=True)
class KnownVersion:
    """A version as the registry lists it."""

    name: str
    number: int
    run_id: str
    model_id: str  # of the logged model that it points at; empty where it has none
    stage: str  # MLflow's: None, Staging, Production or Archived
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created_ms: int
    changed_ms: int

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model with all its versions, oldest first."""

    name: str
    tags: Mapping[str, str]
    aliases: Mapping[str, int]
    versions: tuple[KnownVersion, ...]


def open_registry(tracking_uri: str) -> Client:
    """A client of the store in which runs and versions are."""
    return MlflowClient(tracking_uri=tracking_uri)


def read_model(client: MlflowClient, name: str) -> RegisteredModel:
    """The registered model of this name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if not re.fullmatch(f"{REGISTERED}+", name):
        raise UserError(
            f"{name!r} is no name of a model here: these have letters, digits and _ . - in it."
        )
    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in MISSING_OR_INVALID:
            raise
        choose("registered model", name, sorted(each.name for each in _all_models(client)))
        raise
    return _join(found, _all_versions(client, f"name = '{name}'"))


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return the registered model of this name; None if there is none."""
    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None
    return _join(found, _all_versions(client, f"name = '{name}'"))


def read_models(client: MlflowClient) -> list[RegisteredModel]:
    """All registered models, by name; two questions, however many there are."""
    versions: dict[str, list[ModelVersion]] = {}
    for version in _all_versions(client, None):
        versions.setdefault(version.name, []).append(version)
    return sorted(
        (_join(found, versions.get(found.name, ())) for found in _all_models(client)),
        key=lambda model: model.name,
    )


def tag_if_exists(client: Client, name: str, version: int, tags: Mapping[str, str]) -> None:
    """Sets tags of a version, unless it was deleted meanwhile."""
    try:
        for key, value in tags.items():
            retry_on_conflict(partial(client.set_model_version_tag, name, str(version), key, value))
    except MlflowException as error:
        if error.error_code != MISSING:
            raise


def logged_model_of(source: str | None) -> str:
    """The id of the logged model that a version's source names; empty where it is none of ours."""
    found = LOGGED.fullmatch(source or "")
    return found[1] if found else ""


def _all_models(client: MlflowClient) -> Iterator[Entity]:
    return iter_pages(
        lambda token: client.search_registered_models(max_results=AT_ONCE, page_token=token)
    )


def _all_versions(client: MlflowClient, wanted: str | None) -> Iterator[ModelVersion]:
    return iter_pages(
        lambda token: client.search_model_versions(wanted, max_results=AT_ONCE, page_token=token)
    )


def _join(found: Entity, versions: Iterable[ModelVersion]) -> RegisteredModel:
    aliases = {alias: int(version) for alias, version in found.aliases.items()}
    of_version: dict[int, tuple[str, ...]] = {}
    for alias, number in sorted(aliases.items()):
        of_version[number] = (*of_version.get(number, ()), alias)
    known = (
        KnownVersion(
            each.name,
            int(each.version),
            each.run_id or "",
            logged_model_of(each.source),
            each.current_stage or "None",
            of_version.get(int(each.version), ()),
            dict(each.tags),
            int(each.creation_timestamp or 0),
            int(each.last_updated_timestamp or 0),
        )
        for each in versions
    )
    return RegisteredModel(
        found.name,
        dict(found.tags),
        aliases,
        tuple(sorted(known, key=lambda version: version.number)),
    )
