"""Deleting versions with their runs, logged models and files, so that a kill at any point is
finished by a rerun.

The record of a cleanup says first what it sets out to delete. Then versions go before files, and
files before the rows that say where they are: what is listed can be loaded, and what is left over
can be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.artifacts import Artifacts, erase
from eyevsai.registry.audit_log import read_log
from eyevsai.registry.entities import read_model
from eyevsai.registry.queries import RunQueries
from eyevsai.registry.retention import DeletionItem, KnownRun, in_use, protection_reason
from eyevsai.registry.stages import DELETING, rollback_targets
from eyevsai.store.backend import MISSING
from eyevsai.store.identity import read_store_id
from eyevsai.store.run_dir import RunDir

AT_ONCE = 50  # items, in one transaction of the database
ENDED = ("FINISHED", "FAILED", "KILLED")


class Deletion:
    """What one cleanup deletes. `kept` says why an item that was planned stayed, `failed` what
    could not be erased.
    """

    def __init__(self, client: MlflowClient, artifacts: Artifacts, state_dir: Path) -> None:
        self.client, self.artifacts, self.state_dir = client, artifacts, state_dir
        self.queries, self.store_id = (
            RunQueries(client, artifacts.experiment_ids),
            read_store_id(client),
        )
        self.freed_bytes, self.deleted = 0, list[DeletionItem]()
        self.kept, self.failed = dict[str, str](), dict[str, str]()
        self._reserved: set[str] = set()

    def reasons_to_keep(self, items: Sequence[DeletionItem]) -> dict[str, str]:
        """Return, by item, why its files must not be deleted from here; an item without a reason is
        left out.
        """
        places = self.queries.locations(run_id for item in items for run_id in item.run_ids)
        for model_id in (model_id for item in items for model_id in item.model_ids):
            with _ignoring_missing():
                places[model_id] = [
                    (model_id, self.client.get_logged_model(model_id).artifact_location)
                ]
        return {item.target: why for item in items if (why := self._reason_to_keep(item, places))}

    def delete(self, items: Sequence[DeletionItem]) -> None:
        """Deletes a batch, all but what somebody has begun to use since it was planned."""
        runs = self.queries.by_id(run_id for item in items for run_id in item.run_ids)
        models = self._logged_models(items)
        sound = self._sound(items, runs, models)
        free = [item for item in self._delete_versions(sound) if self._reserve(item, runs)]
        erased = [item for item in free if self._erase(item, runs, models)]
        self._delete_rows(erased, runs, models)
        self.deleted += erased

    def release(self) -> None:
        """Takes back what says of versions that they are about to be deleted."""
        for name in self._reserved:
            release_reservation(self.client, name)

    def _logged_models(self, items: Iterable[DeletionItem]) -> dict[str, list[LoggedModel]]:
        """By run, and by their own ids those that no run brings along."""
        found: dict[str, list[LoggedModel]] = {}
        for model in self.queries.logged_models(
            run_id for item in items for run_id in item.run_ids
        ):
            found.setdefault(str(model.source_run_id), []).append(model)
        for model_id in (model_id for item in items for model_id in item.model_ids):
            with _ignoring_missing():
                found[model_id] = [self.client.get_logged_model(model_id)]
        return found

    def _sound(
        self,
        items: Sequence[DeletionItem],
        runs: dict[str, KnownRun],
        models: dict[str, list[LoggedModel]],
    ) -> list[DeletionItem]:
        """The items of which all files lie where they should, before anything is deleted."""
        places = {owner: [(owner, run.artifact_uri)] for owner, run in runs.items()}
        for owner, logged in models.items():
            places.setdefault(owner, []).extend(
                (model.model_id, model.artifact_location) for model in logged
            )
        found = {item.target: why for item in items if (why := self._reason_to_keep(item, places))}
        self.kept |= found
        return [item for item in items if item.target not in found]

    def _reason_to_keep(
        self, item: DeletionItem, places: Mapping[str, Sequence[tuple[str, str]]]
    ) -> str:
        """Return why the files of an item must not be deleted from here; empty if they may be."""
        try:
            for owner in (*item.run_ids, *item.model_ids):
                for name, uri in places.get(owner, ()):
                    self.artifacts.check(uri, name, self.store_id)
        except UserError as error:
            return str(error)
        return ""

    def _delete_versions(self, items: Sequence[DeletionItem]) -> list[DeletionItem]:
        """Deletes versions of a batch; returns the items that have none left."""
        by_name: dict[str, list[int]] = {}
        for item in items:
            for name, number in item.versions:
                by_name.setdefault(name, []).append(number)
        if not by_name:
            return list(items)
        for name, numbers in by_name.items():
            reserve(self.client, name, numbers)
        self._reserved |= by_name.keys()
        # read after the reservation: either we see a job, or the job sees the reservation
        used = in_use(self.queries.running())
        return retry_on_conflict(lambda: self._delete_free(items, by_name, used))

    def _delete_free(
        self, items: Sequence[DeletionItem], names: Iterable[str], used: dict[str, str]
    ) -> list[DeletionItem]:
        # MlflowClient reads the whole model at each deletion
        free, registry = ([], self.client._get_registry_client())
        with one_transaction(registry.store):
            models = {name: read_model(self.client, name) for name in names}
            targets = {
                (name, number): stage
                for name, model in models.items()
                for number, stage in rollback_targets(model, read_log(self.client, name)).items()
            }
            there = {
                (each.name, each.number): each
                for model in models.values()
                for each in model.versions
            }
            others = self._pointing(items)
            for item in items:
                left = [there[key] for key in item.versions if key in there]
                why = next(
                    (why for version in left if (why := protection_reason(version, used, targets))),
                    None,
                )
                why = why or next(
                    (f"needed by {others[run_id]}" for run_id in item.run_ids if run_id in others),
                    None,
                )
                if why:
                    self.kept[item.target] = why
                    continue
                for version in left:
                    registry.delete_model_version(version.name, str(version.number))
                free.append(item)
        return free

    def _pointing(self, items: Iterable[DeletionItem]) -> dict[str, str]:
        """The versions that runs of the batch have besides those that are deleted: registered since
        it was planned.
        """
        planned = {key for item in items for key in item.versions}
        run_ids = ", ".join(
            f"'{run_id}'" for item in items if item.versions for run_id in item.run_ids
        )
        if not run_ids:
            return {}
        found = self.client.search_model_versions(f"run_id IN ({run_ids})", max_results=1000)
        return {
            str(each.run_id): f"models:/{each.name}/{each.version}"
            for each in found
            if (each.name, int(each.version)) not in planned
        }

    def _reserve(self, item: DeletionItem, runs: dict[str, KnownRun]) -> bool:
        """Marks a run that no version's absence gives away as begun; False when somebody goes on
        with it.
        """
        if item.versions or not item.run_ids or item.run_ids[-1] not in runs:
            return True
        run_id = item.run_ids[-1]
        with _ignoring_missing():
            retry_on_conflict(lambda: self.client.set_tag(run_id, DELETING, "yes"))
            if self.client.get_run(run_id).info.status in ENDED:
                return True
            self.client.delete_tag(run_id, DELETING)
        self.kept[item.target] = "it is RUNNING again, or gone"
        return False

    def _erase(
        self, item: DeletionItem, runs: dict[str, KnownRun], models: dict[str, list[LoggedModel]]
    ) -> bool:
        """Deletes all files of an item; what could not be is left to the next cleanup."""
        try:
            for run_id in item.run_ids:
                self.freed_bytes += self._erase_run_folder(RunDir(self.state_dir, run_id))
            for path in item.paths:
                self.freed_bytes += erase(path)
            for owner in (*item.run_ids, *item.model_ids):
                for model in models.get(owner, ()):
                    self.freed_bytes += self.artifacts.erase(model.artifact_location)
                if owner in runs:
                    self.freed_bytes += self.artifacts.erase(runs[owner].artifact_uri)
        except (OSError, UserError) as error:
            self.failed[item.target] = str(error)
            return False
        return True

    def _erase_run_folder(self, folder: RunDir) -> int:
        if not folder.path.is_dir():
            return 0
        with folder.lock():  # or a job that goes on with it would lose its checkpoints
            return folder.delete()

    def _delete_rows(
        self,
        items: Sequence[DeletionItem],
        runs: dict[str, KnownRun],
        models: dict[str, list[LoggedModel]],
    ) -> None:
        """Deletes the rows of logged models and runs; a server lets us do no more than mark them as
        deleted.
        """
        owners = [owner for item in items for owner in (*item.run_ids, *item.model_ids)]
        store: Any = self.client._tracking_client.store
        hard = hasattr(store, "_hard_delete_run")
        forget_model = store._hard_delete_logged_model if hard else self.client.delete_logged_model
        forget_run = store._hard_delete_run if hard else self.client.delete_run

        def forget() -> None:
            """All of them, in one transaction."""
            with one_transaction(store):
                for owner in owners:
                    for model in models.get(owner, ()):
                        _delete_row(forget_model, model.model_id)
                    if owner in runs:
                        _delete_row(forget_run, owner)

        retry_on_conflict(forget)


def reserve(client: MlflowClient, name: str, numbers: Iterable[int]) -> None:
    """Says that versions are about to be deleted, so that nobody promotes them or begins to use
    them.
    """
    told = " ".join(map(str, sorted(numbers)))
    retry_on_conflict(lambda: client.set_registered_model_tag(name, DELETING, told))


def release_reservation(client: MlflowClient, name: str) -> None:
    """Release the reserved versions of a registered model."""
    with _ignoring_missing():
        retry_on_conflict(lambda: client.delete_registered_model_tag(name, DELETING))


def _delete_row(forget: Callable[[str], object], name: str) -> None:
    with _ignoring_missing():
        forget(name)


@contextmanager
def _ignoring_missing() -> Iterator[None]:
    """What is gone already is as it should be."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != MISSING:
            raise


@contextmanager
def one_transaction(store: Any) -> Iterator[None]:
    """Calls of a database store inside the block are one transaction: all of them happen, or none.

    Each of MLflow's calls is a transaction of its own, which takes a disk longer than all else that
    it does. In SQLite nobody else writes during the block, so that what is read in it stays true.
    Other stores go on call by call.
    """
    make = getattr(store, "ManagedSessionMaker", None)
    if make is None:
        yield
        return
    with make(read_only=False) as session:
        if session.get_bind().dialect.name == "sqlite":
            session.execute(text("BEGIN IMMEDIATE"))

        @contextmanager
        def same(**_: bool) -> Iterator[Any]:  # read_only
            yield session

        store.ManagedSessionMaker = same
        try:
            yield
        finally:
            store.ManagedSessionMaker = make
