"""Identity of a tracking store: a UUID kept in it, with what identifies its database.

A copied database has the UUID of its original, but another inode, machine or database id. Until
`eyevsai doctor --adopt` gives it a UUID of its own, nothing proves which files belong to it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eyevsai.core.machine import machine_id
from eyevsai.core.retry import retry_on_conflict
from eyevsai.store.backend import lock_store
from eyevsai.store.paging import list_experiments
from eyevsai.store.uris import mask_password, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE_ID, STORE_DATABASE = "eyevsai.store_id", "eyevsai.store_place"  # tags of an experiment
POSTGRES_IDENTITY = (
    "select (select system_identifier from pg_control_system()), "
    "(select oid from pg_database where datname = current_database())"
)


@dataclass(frozen=True)
class StoreId:
    """The UUIDs of a store; `doubt` is the reason why they prove nothing, empty where they do.

    `original` is the path of the SQLite file that had the UUIDs first, if the store is in doubt and
    there was one.
    """

    ids: frozenset[str]
    doubt: str = ""
    original: str | None = None


def read_store_id(client: MlflowClient) -> StoreId:
    """Return the identity of a store; nothing is written."""
    tagged = _tagged_experiments(client)
    ids = frozenset(tags[STORE_ID] for _, tags in tagged)
    # a server is the same store under each of its addresses
    if client.tracking_uri.startswith("http"):
        return StoreId(ids)
    place = identify_database(client.tracking_uri)
    for _, tags in tagged:
        recorded = _parse(tags.get(STORE_DATABASE, ""))
        if not _is_same_database(recorded, place):
            where = recorded.get("path") or recorded.get("server") or "an unknown place"
            doubt = f"its database is a copy of the one at {where}, or was restored from a copy"
            return StoreId(ids, doubt, recorded.get("path"))
    return StoreId(ids)


def ensure_store_id(client: MlflowClient, experiment_id: str) -> str | None:
    """Return the UUID of a store for the mark of a new folder, created if there is none; None in
    doubt.
    """
    found = read_store_id(client)
    if not found.ids:
        with lock_store(client.tracking_uri, "id.lock"):
            found = read_store_id(client)
            if not found.ids:
                return _write_store_id(client, experiment_id)
    return None if found.doubt else min(found.ids)


def adopt_store(client: MlflowClient) -> StoreId | None:
    """Give a store in doubt a UUID of its own; return its former identity, None if it was in no
    doubt.
    """
    found = read_store_id(client)
    if not found.doubt:
        return None
    for experiment_id, _ in _tagged_experiments(client):
        _write_store_id(client, experiment_id)
    return found


def _write_store_id(client: MlflowClient, experiment_id: str) -> str:
    new = uuid.uuid4().hex
    # The UUID first: one without its place is in doubt, but the original's with the place of a copy
    # would not be.
    for name, value in (
        (STORE_ID, new),
        (STORE_DATABASE, json.dumps(identify_database(client.tracking_uri))),
    ):
        retry_on_conflict(partial(client.set_experiment_tag, experiment_id, name, value))
    return new


def _tagged_experiments(client: MlflowClient) -> list[tuple[str, Mapping[str, str]]]:
    """Return id and tags of the experiments that have a UUID."""
    found = list_experiments(client, deleted=True)
    return [(str(each.experiment_id), each.tags) for each in found if STORE_ID in each.tags]


def _parse(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def identify_database(uri: str) -> dict[str, Any]:
    """Return what identifies the database of a store: the same for each address of it, another one
    for a copy.
    """
    path = sqlite_path(uri)
    if path is not None:
        return {"path": str(path.resolve()), "inode": path.stat().st_ino, "machine": machine_id()}
    if uri.startswith("postgresql"):
        return _identify_postgres(uri)
    parts = urlsplit(mask_password(uri))
    return {"server": f"{parts.hostname}:{parts.port}{parts.path}"}


def _identify_postgres(uri: str) -> dict[str, Any]:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            cluster, database = connection.execute(sqlalchemy.text(POSTGRES_IDENTITY)).one()
        return {"server": f"postgresql {cluster}/{database}"}
    except SQLAlchemyError:  # a server that does not let this login ask
        parts = urlsplit(mask_password(uri))
        return {"server": f"{parts.hostname}:{parts.port or 5432}{parts.path}"}
    finally:
        engine.dispose()


def _is_same_database(recorded: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    """Return True if two places are of one database. A file that is moved keeps its inode, and a
    copy gets another.
    """
    if "inode" in place:
        return bool(place["machine"]) and all(
            recorded.get(name) == place[name] for name in ("inode", "machine")
        )
    return recorded == place
