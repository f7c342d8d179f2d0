"""Plan of a cleanup, from the store, the run directories of this machine, and the cache."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from eyevsai.core.paths import expand
from eyevsai.data.disk_cache import DiskCache
from eyevsai.registry.artifacts import Artifacts, size_of
from eyevsai.registry.audit_log import read_logs
from eyevsai.registry.deletion import BATCH_SIZE, Deletion
from eyevsai.registry.entities import Client, RegisteredModel, read_models
from eyevsai.registry.orphans import plan_orphans
from eyevsai.registry.queries import RunQueries, find_unfinished
from eyevsai.registry.retention import (
    CACHE,
    DeletionItem,
    DeletionPlan,
    KnownRun,
    plan_ended,
    plan_studies,
    plan_versions,
)
from eyevsai.registry.settings import CleanupSettings
from eyevsai.registry.stages import rollback_targets
from eyevsai.registry.versions import SIZE
from eyevsai.store.run_dir import RunDir
from eyevsai.store.uris import studies_dir
from eyevsai.tuning.settings import journal_path


def make_plan(
    client: Client, settings: CleanupSettings, only: Collection[str] | None = None
) -> DeletionPlan:
    """Return the plan of a cleanup for the current state of the store.

    The plan always includes what interrupted cleanups began to delete.

    Args:
        client: client of the store.
        settings: what to delete.
        only: names of the registered models whose versions may be deleted; None for all.
    """
    artifacts, state_dir = Artifacts(client), expand(settings.state_dir)
    queries, models = RunQueries(client, artifacts.experiment_ids), read_models(client)
    running, registered = (
        queries.running(),
        {version.run_id for model in models for version in model.versions},
    )
    plan = DeletionPlan(tuple(find_unfinished(client, queries, registered)))
    unfinished_ids = {run_id for item in plan.items for run_id in item.run_ids}
    if settings.includes("old_versions"):
        logs = read_logs(client)
        targets = {
            (model.name, number): stage
            for model in models
            for number, stage in rollback_targets(model, logs.get(model.name, [])).items()
        }
        plan += plan_versions(
            models, running, queries.pruned(), settings.num_kept, targets=targets, only=only
        )
    if settings.includes("failed_runs"):
        runs = [
            run
            for run in (*queries.failed(), *queries.killed())
            if run.run_id not in unfinished_ids
        ]
        resumable = {
            run.run_id for run in runs if RunDir(state_dir, run.run_id).checkpoints.is_dir()
        }
        now_ms = int(time.time() * 1000)
        plan += plan_ended(runs, running, registered, resumable, days=settings.days, now_ms=now_ms)
    if settings.includes("tuning"):
        plan += _plan_studies(client, queries, running, settings, unfinished_ids)
    plan = _without_undeletable(plan, client, artifacts, state_dir)
    plan = _measure(plan, artifacts, queries, models, state_dir)
    if settings.includes("cache"):
        plan += _plan_cache(expand(settings.cache_dir))
    if settings.includes("orphans"):
        plan += plan_orphans(client, artifacts, queries, models, state_dir)
    return plan


def _without_undeletable(
    plan: DeletionPlan, client: Client, artifacts: Artifacts, state_dir: Path
) -> DeletionPlan:
    """Return the plan with the items that the deletion would keep moved to `kept`."""
    deletion, reasons = Deletion(client, artifacts, state_dir), dict[str, str]()
    for start in range(0, len(plan.items), BATCH_SIZE):
        reasons |= deletion.reasons_to_keep(plan.items[start : start + BATCH_SIZE])
    return DeletionPlan(
        tuple(item for item in plan.items if item.target not in reasons), {**plan.kept, **reasons}
    )


def _plan_studies(
    client: Client,
    queries: RunQueries,
    running: list[KnownRun],
    settings: CleanupSettings,
    unfinished_ids: set[str],
) -> DeletionPlan:
    """Plan the deletion of studies with their trials and journal files.

    The journal of a name is deleted only if all studies of this name are.

    Args:
        client: client of the store.
        queries: queries of the runs.
        running: all RUNNING runs.
        settings: minimum age of the studies, and the state directory.
        unfinished_ids: ids of runs that are planned already.
    """
    studies = [study for study in queries.studies() if study.run_id not in unfinished_ids]
    trials = queries.trials(study.run_id for study in studies)
    plan = plan_studies(studies, trials, running, settings.days, int(time.time() * 1000))
    planned_ids = {item.run_ids[-1] for item in plan.items}
    kept_names = {study.tags.get("study") for study in studies if study.run_id not in planned_ids}
    folder = studies_dir(client.tracking_uri, expand(settings.state_dir))
    names = {study.run_id: study.tags.get("study") for study in studies}
    items = []
    for item in plan.items:
        name = names[item.run_ids[-1]]
        journal = journal_path(folder, str(name))
        paths = [] if name in kept_names else [journal, Path(f"{journal}.flock")]
        items.append(replace(item, paths=tuple(path for path in paths if path.is_file())))
    return replace(plan, items=tuple(items))


def _plan_cache(root: Path) -> DeletionPlan:
    """Plan the deletion of the whole cache; an empty plan if it has no files."""
    size_bytes = DiskCache(root, limit_gb=0.0).size_bytes()
    item = DeletionItem(
        CACHE, str(root), "computed again when needed", paths=(root,), size_bytes=size_bytes
    )
    return DeletionPlan((item,) if size_bytes else ())


def _measure(
    plan: DeletionPlan,
    artifacts: Artifacts,
    queries: RunQueries,
    models: Sequence[RegisteredModel],
    state_dir: Path,
) -> DeletionPlan:
    """Return the plan with the size of each item in bytes.

    Args:
        plan: plan without sizes.
        artifacts: locations of the artifacts.
        queries: queries of the runs.
        models: all registered models.
        state_dir: folder of run state on this machine.
    """
    versions = {(each.name, each.number): each for model in models for each in model.versions}
    unregistered = [run_id for item in plan.items if not item.versions for run_id in item.run_ids]
    logged: dict[str, set[str]] = {}
    for model in queries.logged_models(unregistered):
        logged.setdefault(str(model.source_run_id), set()).add(model.model_id)

    def measure(item: DeletionItem) -> int:
        """Return the bytes of local files; with remote artifacts, also those tagged on versions."""
        item_versions = [versions[key] for key in item.versions]
        paths = list(item.paths)
        for run_id in item.run_ids:
            ids = {version.model_id for version in item_versions if version.model_id}
            ids |= logged.get(run_id, set())
            paths += [
                RunDir(state_dir, run_id).path,
                *artifacts.folders_of(run_id, tuple(sorted(ids))),
            ]
        remote_bytes = (
            sum(int(version.tags.get(SIZE, 0)) for version in item_versions)
            if item.run_ids and not artifacts.roots
            else 0
        )
        return remote_bytes + sum(size_of(path) for path in paths)

    return replace(
        plan, items=tuple(replace(item, size_bytes=measure(item)) for item in plan.items)
    )
