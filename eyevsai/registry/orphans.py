"""Orphans: files and logged models of this store that nothing refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlflow import MlflowClient

from eyevsai.registry.artifacts import MODELS, Artifacts, size_of
from eyevsai.registry.entities import RegisteredModel
from eyevsai.registry.queries import RunQueries, ids_of_interrupted_cleanups
from eyevsai.registry.retention import ORPHAN, DeletionItem, DeletionPlan
from eyevsai.store.identity import read_store_id
from eyevsai.store.ownership import is_owned
from eyevsai.store.run_dir import STORE, RunDir, list_run_dirs
from eyevsai.store.uris import canonical_uri

RUN, MODEL = re.compile(r"[0-9a-f]{32}"), re.compile(r"m-[0-9a-f]{32}")
OURS = "variation"  # the parameter that logged models of eyevsai have


def plan_orphans(
    client: MlflowClient,
    artifacts: Artifacts,
    queries: RunQueries,
    models: Iterable[RegisteredModel],
    state_dir: Path,
) -> DeletionPlan:
    """Plan the deletion of files whose run or logged model this store no longer has.

    A folder that the store does not know is deleted only if that is proven: by its owner mark, or
    by the plan of an interrupted cleanup of this store. All other unknown folders are kept and
    named. What was deleted in MLflow's UI is still known, until `mlflow gc`, and is no orphan.
    """
    # listed before the store is asked: what is new by then is known
    folders = list(_artifact_folders(artifacts))
    here = [folder for folder in list_run_dirs(state_dir) if RUN.fullmatch(folder.run_id)]
    there = queries.store_content()
    known = there.runs.keys() | there.models.keys() | there.deleted_models
    plan = _plan_folders(client, queries, [path for path in folders if path.name not in known])
    registered = {version.model_id for model in models for version in model.versions}
    alone = (
        each
        for each, run_id in there.models.items()
        if run_id not in there.runs and each not in registered
    )
    items = list(
        filter(
            None, (_logged_model_item(client, artifacts, model_id) for model_id in sorted(alone))
        )
    )
    store = canonical_uri(client.tracking_uri)
    items += [
        _run_folder_item(folder)
        for folder in here
        if folder.run_id not in there.runs and folder.read(STORE) == store
    ]
    deleted = sum(there.runs.values())
    kept = (
        {f"{deleted} runs that were deleted in MLflow's UI": "mlflow gc frees them"}
        if deleted
        else {}
    )
    return plan + DeletionPlan(tuple(items), kept)


def _logged_model_item(
    client: MlflowClient, artifacts: Artifacts, model_id: str
) -> DeletionItem | None:
    """A logged model that has neither run nor version; None for one that eyevsai did not log."""
    model = client.get_logged_model(model_id)
    if OURS not in (model.params or {}):
        return None
    return DeletionItem(
        ORPHAN,
        f"logged model {model_id}",
        "neither its run nor a version is there",
        model_ids=(model_id,),
        size_bytes=artifacts.size_of(model.artifact_location),
    )


def _run_folder_item(folder: RunDir) -> DeletionItem:
    return DeletionItem(
        ORPHAN,
        str(folder.path),
        "its run is gone",
        run_ids=(folder.run_id,),
        size_bytes=size_of(folder.path),
    )


def _artifact_folders(artifacts: Artifacts) -> Iterator[Path]:
    for root in artifacts.roots:
        for parent, pattern in ((root, RUN), (root / MODELS, MODEL)):
            if parent.is_dir():
                yield from (
                    path
                    for path in sorted(parent.iterdir())
                    if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
                )


def _plan_folders(client: MlflowClient, queries: RunQueries, unknown: list[Path]) -> DeletionPlan:
    """Plan the deletion of unknown folders that provably belong to this store; name the others."""
    # a server does not say what was deleted softly
    if not unknown or client.tracking_uri.startswith("http"):
        return DeletionPlan()
    store, begun = read_store_id(client), ids_of_interrupted_cleanups(client, queries)
    proven = [
        path
        for path in unknown
        if not store.doubt and (path.name in begun or is_owned(path, store.ids))
    ]
    why = (
        f"unknown, kept: {store.doubt}"
        if store.doubt
        else "unknown, kept: no mark says that it is this store's"
    )
    items = (
        DeletionItem(
            ORPHAN,
            str(path),
            "its run or logged model is gone from this store",
            paths=(path,),
            size_bytes=size_of(path),
        )
        for path in proven
    )
    return DeletionPlan(tuple(items), {str(path): why for path in unknown if path not in proven})
