"""Deletion of versions with their runs, logged models and files; a rerun completes a killed one.

The audit run of a cleanup records the plan first. Then versions are deleted before files, and files
before the rows with their locations. So at any time, each listed version can be loaded, and all
remaining files can be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, LoggedModel
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.artifacts import Artifacts, erase
from eyevsai.registry.audit_log import read_log
from eyevsai.registry.entities import iter_versions, read_model
from eyevsai.registry.queries import RunQueries
from eyevsai.registry.retention import DeletionItem, KnownRun, in_use, protection_reason
from eyevsai.registry.stages import DELETING, rollback_targets
from eyevsai.store.backend import MISSING
from eyevsai.store.identity import read_store_id
from eyevsai.store.run_dir import RunDir

BATCH_SIZE = 50  # items per database transaction
ENDED = ("FINISHED", "FAILED", "KILLED")


class Deletion:
    """Deletion of the items of one cleanup, in batches.

    Call `delete` with at most `BATCH_SIZE` items at a time, and `release` after the last batch. If
    `release` is not called, the next cleanup removes the reservations.

    Attributes:
        deleted: items that were deleted completely.
        freed_bytes: size of all deleted files.
        kept: reason by `DeletionItem.target`, for each planned item that must not be deleted.
        failed: error by target, for each item with files that could not be deleted; its versions
            were deleted.
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
        """Return, by target, why the files of an item must not be deleted from this machine.

        Items that may be deleted are left out. `kept` does not change.
        """
        locations = self.queries.locations(run_id for item in items for run_id in item.run_ids)
        for model_id in (model_id for item in items for model_id in item.model_ids):
            with _ignoring_missing():
                locations[model_id] = [
                    (model_id, self.client.get_logged_model(model_id).artifact_location)
                ]
        return {
            item.target: reason
            for item in items
            if (reason := self._reason_to_keep(item, locations))
        }

    def delete(self, items: Sequence[DeletionItem]) -> None:
        """Delete a batch, except items that came into use since they were planned.

        The attributes record the result of each item. An error of the store is raised; a rerun then
        completes the batch.
        """
        runs = self.queries.by_id(run_id for item in items for run_id in item.run_ids)
        models = self._logged_models(items)
        deletable = self._select_deletable(items, runs, models)
        reserved = [
            item for item in self._delete_versions(deletable) if self._reserve_run(item, runs)
        ]
        erased = [item for item in reserved if self._erase(item, runs, models)]
        self._delete_rows(erased, runs, models)
        self.deleted += erased

    def release(self) -> None:
        """Remove the reservations of all versions that `delete` has reserved."""
        for name in self._reserved:
            release_reservation(self.client, name)

    def _logged_models(self, items: Iterable[DeletionItem]) -> dict[str, list[LoggedModel]]:
        """Return logged models by run id, and those of `model_ids` by their own id.

        Logged models that do not exist are left out.
        """
        models: dict[str, list[LoggedModel]] = {}
        for model in self.queries.logged_models(
            run_id for item in items for run_id in item.run_ids
        ):
            models.setdefault(str(model.source_run_id), []).append(model)
        for model_id in (model_id for item in items for model_id in item.model_ids):
            with _ignoring_missing():
                models[model_id] = [self.client.get_logged_model(model_id)]
        return models

    def _select_deletable(
        self,
        items: Sequence[DeletionItem],
        runs: dict[str, KnownRun],
        models: dict[str, list[LoggedModel]],
    ) -> list[DeletionItem]:
        """Return the items whose files may all be deleted; add the others to `kept`."""
        locations = {owner: [(owner, run.artifact_uri)] for owner, run in runs.items()}
        for owner, logged in models.items():
            locations.setdefault(owner, []).extend(
                (model.model_id, model.artifact_location) for model in logged
            )
        reasons = {
            item.target: reason
            for item in items
            if (reason := self._reason_to_keep(item, locations))
        }
        self.kept |= reasons
        return [item for item in items if item.target not in reasons]

    def _reason_to_keep(
        self, item: DeletionItem, locations: Mapping[str, Sequence[tuple[str, str]]]
    ) -> str:
        """Return why an item's files must not be deleted from this machine; empty if they may be.

        `locations` has, by the id of a run or logged model, the pairs of id and artifact location
        of that entity and of the run's logged models.
        """
        try:
            for owner in (*item.run_ids, *item.model_ids):
                for name, uri in locations.get(owner, ()):
                    self.artifacts.check(uri, name, self.store_id)
        except UserError as error:
            return str(error)
        return ""

    def _delete_versions(self, items: Sequence[DeletionItem]) -> list[DeletionItem]:
        """Reserve and delete the versions of a batch.

        Returns the items that have no version left; the others are added to `kept`.
        """
        by_name: dict[str, list[int]] = {}
        for item in items:
            for name, number in item.versions:
                by_name.setdefault(name, []).append(number)
        if not by_name:
            return list(items)
        for name, numbers in by_name.items():
            self._reserved.add(name)  # before the call, so that `release` knows it in any case
            reserve(self.client, name, numbers)
        # read after the reservation: either this sees a job's run, or the job sees the reservation
        used = in_use(self.queries.running())
        return retry_on_conflict(lambda: self._delete_unprotected(items, by_name, used))

    def _delete_unprotected(
        self, items: Sequence[DeletionItem], model_names: Iterable[str], used: dict[str, str]
    ) -> list[DeletionItem]:
        """Delete the versions that nothing protects, in one transaction.

        Args:
            items: items of the batch.
            model_names: registered models of all their versions.
            used: result of `in_use`.

        Returns:
            The items that have no version left; the others are added to `kept`.
        """
        # not MlflowClient: it reads the whole model at each deletion
        deletable, registry = ([], self.client._get_registry_client())
        with one_transaction(registry.store):
            models = {name: read_model(self.client, name) for name in model_names}
            targets = {
                (name, number): stage
                for name, model in models.items()
                for number, stage in rollback_targets(model, read_log(self.client, name)).items()
            }
            existing = {
                (each.name, each.number): each
                for model in models.values()
                for each in model.versions
            }
            unplanned = self._unplanned_versions(items)
            for item in items:
                versions = [existing[key] for key in item.versions if key in existing]
                reasons = [protection_reason(version, used, targets) for version in versions]
                needed = [unplanned[run_id] for run_id in item.run_ids if run_id in unplanned]
                reasons += [f"needed by {uri}" for uri in needed]
                if reason := next(filter(None, reasons), None):
                    self.kept[item.target] = reason
                    continue
                for version in versions:
                    registry.delete_model_version(version.name, str(version.number))
                deletable.append(item)
        return deletable

    def _unplanned_versions(self, items: Iterable[DeletionItem]) -> dict[str, str]:
        """Return, by run id, the URI of a version of that run that is not planned for deletion.

        It was registered since the plan was made. Runs without one are left out.
        """
        planned = {key for item in items for key in item.versions}
        run_ids = ", ".join(
            f"'{run_id}'" for item in items if item.versions for run_id in item.run_ids
        )
        if not run_ids:
            return {}
        versions = iter_versions(self.client, f"run_id IN ({run_ids})")
        return {
            str(each.run_id): f"models:/{each.name}/{each.version}"
            for each in versions
            if (each.name, int(each.version)) not in planned
        }

    def _reserve_run(self, item: DeletionItem, runs: dict[str, KnownRun]) -> bool:
        """Tag the run of an item without versions, so that a rerun finds the interrupted deletion.

        The run is the last one of the item. Returns True without a tag if the item had versions,
        whose absence a rerun recognizes, or if its run is not in `runs`. Returns False, and adds
        the item to `kept`, if the run is RUNNING again, or was deleted since the plan was made.
        """
        if item.versions or not item.run_ids or item.run_ids[-1] not in runs:
            return True
        run_id = item.run_ids[-1]
        with _ignoring_missing():
            # MLflow refuses tags on a run that was deleted in its UI
            if self.client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE:
                retry_on_conflict(lambda: self.client.set_tag(run_id, DELETING, "yes"))
                if self.client.get_run(run_id).info.status in ENDED:
                    return True
                self.client.delete_tag(run_id, DELETING)
        self.kept[item.target] = "its run is RUNNING again, or was deleted"
        return False

    def _erase(
        self, item: DeletionItem, runs: dict[str, KnownRun], models: dict[str, list[LoggedModel]]
    ) -> bool:
        """Delete all files of an item.

        Returns False, and adds the item to `failed`, if some files remain; the next cleanup deletes
        them.
        """
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
        with folder.lock():  # a job that resumes the run must not lose its checkpoints
            return folder.delete()

    def _delete_rows(
        self,
        items: Sequence[DeletionItem],
        runs: dict[str, KnownRun],
        models: dict[str, list[LoggedModel]],
    ) -> None:
        """Delete the rows of logged models and runs.

        Through a tracking server they can only be marked as deleted.
        """
        owners = [owner for item in items for owner in (*item.run_ids, *item.model_ids)]
        store: Any = self.client._tracking_client.store
        can_delete_rows = hasattr(store, "_hard_delete_run")
        delete_model = (
            store._hard_delete_logged_model if can_delete_rows else self.client.delete_logged_model
        )
        delete_run = store._hard_delete_run if can_delete_rows else self.client.delete_run

        def delete_all() -> None:
            """Delete all rows in one transaction."""
            with one_transaction(store):
                for owner in owners:
                    for model in models.get(owner, ()):
                        _delete_row(delete_model, model.model_id)
                    if owner in runs:
                        _delete_row(delete_run, owner)

        retry_on_conflict(delete_all)


def reserve(client: MlflowClient, name: str, numbers: Iterable[int]) -> None:
    """Mark versions as about to be deleted, so that no job promotes or uses them.

    This replaces an earlier reservation of the same model. `release_reservation` removes it.

    Args:
        client: client of the store.
        name: name of the registered model.
        numbers: numbers of the versions.
    """
    tag = " ".join(map(str, sorted(numbers)))
    retry_on_conflict(lambda: client.set_registered_model_tag(name, DELETING, tag))


def release_reservation(client: MlflowClient, name: str) -> None:
    """Remove the reservation of a registered model; do nothing if either is missing."""
    with _ignoring_missing():
        retry_on_conflict(lambda: client.delete_registered_model_tag(name, DELETING))


def _delete_row(delete: Callable[[str], object], entity_id: str) -> None:
    """Delete the row of one run or logged model; do nothing if it does not exist."""
    with _ignoring_missing():
        delete(entity_id)


@contextmanager
def _ignoring_missing() -> Iterator[None]:
    """Suppress the error that an entity does not exist."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != MISSING:
            raise


@contextmanager
def one_transaction(store: Any) -> Iterator[None]:
    """Run all calls of a database store inside the block in one transaction.

    Each MLflow call commits a transaction of its own, and the commit takes longer than the rest of
    the call. In SQLite no other process can write during the block, so that values read inside it
    stay valid. Calls of other stores are not combined.

    An exception in the block rolls all calls back, and is raised as an MlflowException. No other
    thread may use the store meanwhile.
    """
    make_session = getattr(store, "ManagedSessionMaker", None)
    if make_session is None:
        yield
        return
    with make_session(read_only=False) as session:
        if session.get_bind().dialect.name == "sqlite":
            session.execute(text("BEGIN IMMEDIATE"))

        @contextmanager
        def shared_session(**_: bool) -> Iterator[Any]:  # MLflow passes `read_only`
            yield session

        store.ManagedSessionMaker = shared_session
        try:
            yield
        finally:
            store.ManagedSessionMaker = make_session
