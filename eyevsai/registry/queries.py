"""What a cleanup has to know of a store's runs, asked for by their state, so that the others are
not read.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.store.tracking.dbmodels.models import SqlLoggedModel, SqlRun

from eyevsai.registry.audit_log import CLEANUP, EXPERIMENT
from eyevsai.registry.entities import AT_ONCE
from eyevsai.registry.retention import UNFINISHED, DeletionItem, KnownRun
from eyevsai.registry.stages import DELETING
from eyevsai.store.paging import iter_pages
from eyevsai.store.tags import JOB, PARENT, PRUNED_FROM, SCHEMA

OURS = f"tags.`{SCHEMA}` LIKE '%'"  # runs that eyevsai created
PLAN = "plan.json"  # the artifact of a record that says what it set out to delete
# the tag of an interrupted cleanup's record: the record of the one that finished it
FINISHED_BY = "finished_by"
IDS_AT_ONCE = 200  # in one question


@dataclass(frozen=True)
class StoreContent:
    """What there is, by id: of runs whether they were deleted softly, of logged models the run that
    they came from.
    """

    runs: Mapping[str, bool]
    models: Mapping[str, str]
    deleted_models: frozenset[str] = frozenset()  # softly; a server does not say which


@dataclass(frozen=True)
class RunQueries:
    """Answers about the runs of some experiments."""

    client: MlflowClient
    experiment_ids: Sequence[str]

    def running(self) -> list[KnownRun]:
        """All runs that are RUNNING, of whatever job."""
        return self._search("attributes.status = 'RUNNING'")

    def failed(self) -> list[KnownRun]:
        """Our runs that FAILED."""
        return self._search(f"attributes.status = 'FAILED' and {OURS}")

    def killed(self) -> list[KnownRun]:
        """Our runs that were interrupted; trials go with their study."""
        found = self._search(f"attributes.status = 'KILLED' and {OURS}")
        return [run for run in found if run.tags.get(JOB) != "trial"]

    def studies(self) -> list[KnownRun]:
        """The runs of studies."""
        return self._search(f"tags.`{JOB}` = 'tune' and {OURS}")

    def pruned(self) -> list[KnownRun]:
        """The runs that made a smaller model of a version."""
        return self._search(f"tags.`{PRUNED_FROM}` LIKE 'models:/%'")

    def trials(self, study_ids: Iterable[str]) -> list[KnownRun]:
        """The runs of studies' trials."""
        return [
            trial
            for study_id in study_ids
            for trial in self._search(f"tags.`{PARENT}` = '{study_id}'")
        ]

    def by_id(self, run_ids: Iterable[str]) -> dict[str, KnownRun]:
        """The runs of these ids that are there, deleted ones included."""
        found = (
            self._search(f"attributes.run_id IN ({ids})", ViewType.ALL) for ids in _chunks(run_ids)
        )
        return {run.run_id: run for runs in found for run in runs}

    def logged_models(self, run_ids: Iterable[str]) -> list[LoggedModel]:
        """The logged models of these runs; those that were deleted are not found."""
        return [
            model
            for ids in _chunks(run_ids)
            for model in self._search_models(f"source_run_id IN ({ids})")
        ]

    def locations(self, run_ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """Return id and location of each run and of its logged models, by run. Of a database
        nothing else is read.

        Runs that do not exist are left out.
        """
        ids, found = sorted(set(run_ids)), dict[str, list[tuple[str, str]]]()
        store: Any = self.client._tracking_client.store
        if not hasattr(store, "ManagedSessionMaker"):
            for run in self.by_id(ids).values():
                found.setdefault(run.run_id, []).append((run.run_id, run.artifact_uri))
            for model in self.logged_models(ids):
                found.setdefault(str(model.source_run_id), []).append(
                    (model.model_id, model.artifact_location)
                )
            return found
        of_model = (
            SqlLoggedModel.source_run_id,
            SqlLoggedModel.model_id,
            SqlLoggedModel.artifact_location,
        )
        with store.ManagedSessionMaker() as session:
            for start in range(0, len(ids), IDS_AT_ONCE):
                some = ids[start : start + IDS_AT_ONCE]
                runs = session.query(SqlRun.run_uuid, SqlRun.run_uuid, SqlRun.artifact_uri)
                models = session.query(*of_model).filter(SqlLoggedModel.lifecycle_stage == "active")
                for owner, name, uri in (
                    *runs.filter(SqlRun.run_uuid.in_(some)).all(),
                    *models.filter(SqlLoggedModel.source_run_id.in_(some)).all(),
                ):
                    found.setdefault(owner, []).append((name, uri))
        return found

    def store_content(self) -> StoreContent:
        """All runs and logged models; of a database their names alone are read, which takes a tenth
        of the time.
        """
        store: Any = self.client._tracking_client.store
        if not hasattr(store, "ManagedSessionMaker"):
            runs = {run.run_id: run.deleted for run in self._search("", ViewType.ALL)}
            return StoreContent(
                runs,
                {model.model_id: model.source_run_id or "" for model in self._search_models(None)},
            )
        with store.ManagedSessionMaker() as session:
            stages = dict(session.query(SqlRun.run_uuid, SqlRun.lifecycle_stage).all())
            columns = (
                SqlLoggedModel.model_id,
                SqlLoggedModel.source_run_id,
                SqlLoggedModel.lifecycle_stage,
            )
            models = list(session.query(*columns).all())
        return StoreContent(
            {run_id: stage != "active" for run_id, stage in stages.items()},
            {model_id: run_id or "" for model_id, run_id, stage in models if stage == "active"},
            frozenset(model_id for model_id, _, stage in models if stage != "active"),
        )

    def cleanups(self) -> list[KnownRun]:
        """The records of cleanups that did not end well, or not yet; those that were finished later
        are left out.
        """
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        records = RunQueries(self.client, [experiment.experiment_id])
        found = records._search(f"tags.action = '{CLEANUP}' and attributes.status != 'FINISHED'")
        return [record for record in found if FINISHED_BY not in record.tags]

    def _search(self, wanted: str, view: int = ViewType.ACTIVE_ONLY) -> list[KnownRun]:
        ids, search = list(self.experiment_ids), self.client.search_runs
        return [
            _describe(run)
            for run in iter_pages(
                lambda token: search(ids, wanted, view, AT_ONCE, page_token=token)
            )
        ]

    def _search_models(self, wanted: str | None) -> Iterator[LoggedModel]:
        ids, search = list(self.experiment_ids), self.client.search_logged_models
        return iter_pages(lambda token: search(ids, wanted, max_results=AT_ONCE, page_token=token))


def _describe(run: Run) -> KnownRun:
    info = run.info
    return KnownRun(
        info.run_id,
        info.run_name or "",
        info.status,
        run.data.tags,
        info.end_time or info.start_time or 0,
        info.artifact_uri,
        info.lifecycle_stage != "active",
    )


def _chunks(ids: Iterable[str]) -> Iterator[str]:
    each = sorted(set(ids))
    for start in range(0, len(each), IDS_AT_ONCE):
        yield ", ".join(f"'{run_id}'" for run_id in each[start : start + IDS_AT_ONCE])


def find_unfinished(
    client: MlflowClient, queries: RunQueries, registered: set[str]
) -> list[DeletionItem]:
    """What interrupted cleanups began to delete: runs that lost their versions, or that carry the
    tag of it.

    `registered` are the runs that have a version.
    """
    set_out = [item for record in queries.cleanups() for item in _read_plan(client, record.run_id)]
    there = queries.by_id(run_id for item in set_out for run_id in item["run_ids"])
    found: dict[str, DeletionItem] = {}
    for item in set_out:
        left = [
            there[run_id]
            for run_id in item["run_ids"]
            if run_id in there and not there[run_id].deleted
        ]
        if not left or any(run.run_id in registered or run.status == "RUNNING" for run in left):
            continue  # somebody registered it again, or goes on with it
        if item["versions"] or DELETING in left[-1].tags:
            what, why = (
                f"run {left[-1].run_id} ({left[-1].name})",
                "an interrupted cleanup began with it",
            )
            found[what] = DeletionItem(
                UNFINISHED, what, why, run_ids=tuple(run.run_id for run in left)
            )
    return list(found.values())


def ids_of_interrupted_cleanups(client: MlflowClient, queries: RunQueries) -> set[str]:
    """Return the ids of runs and logged models that interrupted cleanups of this store set out to
    delete.
    """
    items = [item for record in queries.cleanups() for item in _read_plan(client, record.run_id)]
    return {each for item in items for each in (*item["run_ids"], *item["model_ids"])}


def _read_plan(client: MlflowClient, run_id: str) -> list[dict[str, Any]]:
    """The items of a cleanup's plan; none when it ended before it had begun."""
    if PLAN not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(client.download_artifacts(run_id, PLAN, folder)).read_text(encoding="utf-8")
    try:
        items: list[dict[str, Any]] = json.loads(text)["items"]
    except ValueError:  # torn while it was written: nothing was begun yet
        return []
    return items
