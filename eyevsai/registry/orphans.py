"""Orphans: files and logged models of this store that nothing refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlflow import MlflowClient

from eyevsai.core.quantities import format_count
from eyevsai.registry.artifacts import MODELS, Artifacts, size_of
from eyevsai.registry.entities import RegisteredModel
from eyevsai.registry.queries import RunQueries, ids_of_interrupted_cleanups
from eyevsai.registry.retention import ORPHAN, DeletionItem, DeletionPlan
from eyevsai.store.identity import read_store_id
from eyevsai.store.ownership import is_owned
from eyevsai.store.run_dir import STORE, RunDir, list_run_dirs
from eyevsai.store.uris import canonical_uri

RUN, MODEL = re.compile(r"[0-9a-f]{32}"), re.compile(r"m-[0-9a-f]{32}")
OURS = "variation"  # parameter of each logged model of eyevsai


def plan_orphans(
    client: MlflowClient,
    artifacts: Artifacts,
    queries: RunQueries,
    models: Iterable[RegisteredModel],
    state_dir: Path,
) -> DeletionPlan:
    """Plan the deletion of files whose run or logged model no longer exists in this store.

    A folder that is unknown to the store is deleted only if it provably belongs to the store: by
    its owner mark, or by the plan of an interrupted cleanup of this store. Other unknown folders
    are kept and reported. Runs and models that were deleted in MLflow's UI exist until `mlflow gc`
    removes them, and are no orphans.

    Args:
        client: client of the store.
        artifacts: artifact locations of the store.
        queries: queries of all experiments of the store.
        models: all registered models.
        state_dir: folder that contains the run folders of this machine.
    """
    # before the store is read: the run of a folder that is created meanwhile is then known
    folders = list(_artifact_folders(artifacts))
    run_dirs = [folder for folder in list_run_dirs(state_dir) if RUN.fullmatch(folder.run_id)]
    content = queries.store_content()
    known_ids = content.runs.keys() | content.models.keys() | content.deleted_models
    plan = _plan_folders(client, queries, [path for path in folders if path.name not in known_ids])
    registered = {version.model_id for model in models for version in model.versions}
    unreferenced = (
        each
        for each, run_id in content.models.items()
        if run_id not in content.runs and each not in registered
    )
    logged = (_logged_model_item(client, artifacts, each) for each in sorted(unreferenced))
    items = [item for item in logged if item is not None]
    store = canonical_uri(client.tracking_uri)
    items += [
        _run_folder_item(folder)
        for folder in run_dirs
        if folder.run_id not in content.runs and folder.read(STORE) == store
    ]
    deleted = sum(content.runs.values())
    kept = (
        {f"{format_count(deleted, 'run')} deleted in MLflow's UI": "remove with mlflow gc"}
        if deleted
        else {}
    )
    return plan + DeletionPlan(tuple(items), kept)


def _logged_model_item(
    client: MlflowClient, artifacts: Artifacts, model_id: str
) -> DeletionItem | None:
    """Return the item of a logged model without run and version.

    None if eyevsai did not log the model.
    """
    model = client.get_logged_model(model_id)
    if OURS not in (model.params or {}):
        return None
    return DeletionItem(
        ORPHAN,
        f"logged model {model_id}",
        "it has neither a run nor a version",
        model_ids=(model_id,),
        size_bytes=artifacts.size_of(model.artifact_location),
    )


def _run_folder_item(folder: RunDir) -> DeletionItem:
    return DeletionItem(
        ORPHAN,
        str(folder.path),
        "its run no longer exists",
        run_ids=(folder.run_id,),
        size_bytes=size_of(folder.path),
    )


def _artifact_folders(artifacts: Artifacts) -> Iterator[Path]:
    """Yield the local folders that are named like a run or a logged model."""
    for root in artifacts.roots:
        for parent, pattern in ((root, RUN), (root / MODELS, MODEL)):
            if parent.is_dir():
                yield from (
                    path
                    for path in sorted(parent.iterdir())
                    if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
                )


def _plan_folders(client: MlflowClient, queries: RunQueries, unknown: list[Path]) -> DeletionPlan:
    """Plan the deletion of unknown folders that provably belong to this store; keep the others."""
    # a tracking server does not list soft-deleted logged models
    if not unknown or client.tracking_uri.startswith("http"):
        return DeletionPlan()
    store, interrupted_ids = read_store_id(client), ids_of_interrupted_cleanups(client, queries)
    proven = [
        path
        for path in unknown
        if not store.doubt and (path.name in interrupted_ids or is_owned(path, store.ids))
    ]
    reason = (
        f"unknown, kept: {store.doubt}"
        if store.doubt
        else "unknown, kept: it has no owner mark of this store"
    )
    items = (
        DeletionItem(
            ORPHAN,
            str(path),
            "its run or logged model no longer exists in this store",
            paths=(path,),
            size_bytes=size_of(path),
        )
        for path in proven
    )
    return DeletionPlan(tuple(items), {str(path): reason for path in unknown if path not in proven})
