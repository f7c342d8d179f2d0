"""Identity of a tracking store: a UUID in the store, recorded with the identity of its database.

A copied database has the UUID of its original, but another inode, machine or database id. Until
`eyevsai doctor --adopt` assigns a new UUID, the owner of its files cannot be determined.
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

DEFAULT_ID = "0"  # of the experiment Default
STORE_ID, STORE_DATABASE = "eyevsai.store_id", "eyevsai.store_place"  # tags of an experiment
POSTGRES_IDENTITY = (
    "select (select system_identifier from pg_control_system()), "
    "(select oid from pg_database where datname = current_database())"
)


@dataclass(frozen=True)
class StoreId:
    """The UUIDs of a store, one per experiment that has one, and the reason to doubt them.

    `doubt` is empty if the UUIDs are reliable. Otherwise `original` is the path of the SQLite file
    that had the UUIDs first; None if the original was on a server or is unknown.
    """

    ids: frozenset[str]
    doubt: str = ""
    original: str | None = None


def read_store_id(client: MlflowClient) -> StoreId:
    """Return the identity of a store, without writing to it.

    A store without a UUID has no ids and no doubt; a store behind a server is never in doubt.
    """
    tagged = _tagged_experiments(client)
    ids = frozenset(tags[STORE_ID] for _, tags in tagged)
    # the server's database is not accessible, and each URI of a server leads to the same store
    if client.tracking_uri.startswith("http"):
        return StoreId(ids)
    current = identify_database(client.tracking_uri)
    for _, tags in tagged:
        recorded = _parse(tags.get(STORE_DATABASE, ""))
        if not _is_same_database(recorded, current):
            location = recorded.get("path") or recorded.get("server") or "an unknown location"
            doubt = f"its database is a copy of the one at {location}, or was restored from a copy"
            return StoreId(ids, doubt, recorded.get("path"))
    return StoreId(ids)


def ensure_store_id(client: MlflowClient, experiment_id: str) -> str | None:
    """Return the UUID of a store for the owner mark of a new folder; None if it is in doubt.

    If the store has no UUID, one is created and stored in the experiment Default, or, if that was
    deleted, in the experiment `experiment_id`: users delete experiments of datasets more often.
    """
    identity = read_store_id(client)
    if not identity.ids:
        with lock_store(client.tracking_uri, "id.lock"):
            identity = read_store_id(client)
            if not identity.ids:
                active = {str(each.experiment_id) for each in list_experiments(client)}
                home = DEFAULT_ID if DEFAULT_ID in active else experiment_id
                return _write_store_id(client, home)
    return None if identity.doubt else min(identity.ids)


def adopt_store(client: MlflowClient) -> StoreId | None:
    """Assign new UUIDs to a store in doubt and return its former identity.

    Returns None, without writing, if the store is not in doubt.
    """
    former = read_store_id(client)
    if not former.doubt:
        return None
    for experiment_id, _ in _tagged_experiments(client):
        _write_store_id(client, experiment_id)
    return former


def _write_store_id(client: MlflowClient, experiment_id: str) -> str:
    new = uuid.uuid4().hex
    # The UUID first: if the second write is lost, a new UUID with the former database is in doubt.
    # In the other order the original's UUID with the database of the copy would not be.
    for name, value in (
        (STORE_ID, new),
        (STORE_DATABASE, json.dumps(identify_database(client.tracking_uri))),
    ):
        retry_on_conflict(partial(client.set_experiment_tag, experiment_id, name, value))
    return new


def _tagged_experiments(client: MlflowClient) -> list[tuple[str, Mapping[str, str]]]:
    """Return id and tags of the experiments with a UUID, including deleted experiments."""
    experiments = list_experiments(client, deleted=True)
    return [(str(each.experiment_id), each.tags) for each in experiments if STORE_ID in each.tags]


def _parse(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def identify_database(uri: str) -> dict[str, Any]:
    """Return the identity of the database of a store, which differs between copies.

    For SQLite: path, inode and machine id. For PostgreSQL: system identifier and database id, or
    host, port and database name if these are not readable. For others: host, port and name.
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
    except SQLAlchemyError:  # the login has no permission for `pg_control_system`
        parts = urlsplit(mask_password(uri))
        return {"server": f"{parts.hostname}:{parts.port or 5432}{parts.path}"}
    finally:
        engine.dispose()


def _is_same_database(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Return True if two identities are of one database.

    The path of a SQLite file is ignored: a moved file keeps its inode, and a copy gets a new one.
    The result for a SQLite file is False if the current machine has no id.
    """
    if "inode" in current:
        return bool(current["machine"]) and all(
            recorded.get(name) == current[name] for name in ("inode", "machine")
        )
    return recorded == current
