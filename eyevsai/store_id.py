"""Identity of a tracking store: a UUID kept in it, with the place of its database.

A copied database has the UUID of its original. It is told by its place: until `eyevsai doctor --adopt` gives it a UUID
of its own, nothing proves which files belong to it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eyevsai.contention import insisting
from eyevsai.machine import machine_id
from eyevsai.store import list_experiments, lock_store, shown, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE_ID, STORE_PLACE = "eyevsai.store_id", "eyevsai.store_place"  # tags of an experiment
POSTGRES_PLACE = (
    "select (select system_identifier from pg_control_system()), "
    "(select oid from pg_database where datname = current_database())"
)


@dataclass(frozen=True)
class StoreId:
    """The UUIDs of a store; `doubt` is the reason why they prove nothing, empty where they do."""

    ids: frozenset[str]
    doubt: str = ""


def read_store_id(client: MlflowClient) -> StoreId:
    """Return the identity of a store. The place of a project that was moved is brought up to date."""
    place, tagged = _place_of(client.tracking_uri), _tagged(client)
    ids = frozenset(tags[STORE_ID] for _, tags in tagged)
    for experiment_id, tags in tagged:
        recorded = _parse(tags.get(STORE_PLACE, ""))
        if recorded == place:
            continue
        if not _was_moved(recorded, place):
            original = recorded.get("path") or "another server"
            return StoreId(ids, f"it is a copy of the store at {original}")
        insisting(partial(client.set_experiment_tag, experiment_id, STORE_PLACE, json.dumps(place)))
    return StoreId(ids)


def ensure_store_id(client: MlflowClient, experiment_id: str) -> str | None:
    """Return the UUID of a store for the mark of a new folder, created if there is none; None in doubt."""
    found = read_store_id(client)
    if not found.ids:
        with lock_store(client.tracking_uri, "id.lock"):
            found = read_store_id(client)
            if not found.ids:
                return _write(client, experiment_id)
    return None if found.doubt else min(found.ids)


def adopt_store(client: MlflowClient) -> bool:
    """Give a store whose identity is in doubt a UUID of its own; return False if there was no doubt."""
    if not read_store_id(client).doubt:
        return False
    for experiment_id, _ in _tagged(client):
        _write(client, experiment_id)
    return True


def _write(client: MlflowClient, experiment_id: str) -> str:
    new = uuid.uuid4().hex
    for name, value in ((STORE_PLACE, json.dumps(_place_of(client.tracking_uri))), (STORE_ID, new)):
        insisting(partial(client.set_experiment_tag, experiment_id, name, value))
    return new


def _tagged(client: MlflowClient) -> list[tuple[str, Mapping[str, str]]]:
    """Return id and tags of the experiments that have a UUID."""
    found = list_experiments(client, deleted=True)
    return [(str(each.experiment_id), each.tags) for each in found if STORE_ID in each.tags]


def _parse(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _place_of(uri: str) -> dict[str, Any]:
    """Return the place of a store's database: the same for each address of it, and another one for a copy."""
    path = sqlite_path(uri)
    if path is not None:
        return {"path": str(path.resolve()), "machine": machine_id()}
    if uri.startswith("postgresql"):
        return _postgres_place(uri)
    if uri.startswith(("http:", "https:")):
        return {"server": "http"}  # its own store tells its place
    parts = urlsplit(shown(uri))
    return {"server": f"{parts.hostname}:{parts.port}{parts.path}"}


def _postgres_place(uri: str) -> dict[str, Any]:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            cluster, database = connection.execute(sqlalchemy.text(POSTGRES_PLACE)).one()
        return {"server": f"postgresql {cluster}/{database}"}
    except SQLAlchemyError:  # a server that does not let this login ask
        parts = urlsplit(shown(uri))
        return {"server": f"{parts.hostname}:{parts.port or 5432}{parts.path}"}
    finally:
        engine.dispose()


def _was_moved(recorded: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    """Return True if a SQLite file was moved here: on this machine, and its former path no longer exists."""
    before, now = recorded.get("path"), place.get("path")
    same_machine = bool(place.get("machine")) and recorded.get("machine") == place.get("machine")
    if not before or not now or not same_machine:
        return False
    former = Path(str(before))
    return not former.exists() or (Path(str(now)).exists() and former.samefile(str(now)))
