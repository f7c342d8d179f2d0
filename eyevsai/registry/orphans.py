"""Files and logged models that belong to nothing any more, and how it is made sure that they do not."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from eyevsai.registry.artifacts import MODELS, Artifacts, size_of
from eyevsai.registry.cleanup import ORPHAN, Item, Plan
from eyevsai.registry.models import RegisteredModel
from eyevsai.registry.survey import Survey
from eyevsai.run_folder import STORE, RunFolder, run_folders
from eyevsai.store import identify_store, sqlite_path

RUN, MODEL = re.compile(r"[0-9a-f]{32}"), re.compile(r"m-[0-9a-f]{32}")
OURS = "variation"  # the parameter that logged models of eyevsai have


def plan_orphans(
    client: MlflowClient, artifacts: Artifacts, survey: Survey, models: Iterable[RegisteredModel], state_root: Path
) -> Plan:
    """Folders of runs and logged models that the store does not know, and logged models and run folders without a run.

    What was deleted in MLflow's UI is still known, until `mlflow gc`, and is no orphan.
    """
    folders = list(_artifact_folders(artifacts))  # listed before the store is asked: what is new by then is known
    here = [folder for folder in run_folders(state_root) if RUN.fullmatch(folder.run_id)]
    logged = survey.all_logged_models()
    wanted = [path.name for path in folders if RUN.fullmatch(path.name)] + [folder.run_id for folder in here]
    runs = survey.by_id([*wanted, *(str(model.source_run_id) for model in logged if model.source_run_id)])
    known = runs.keys() | {model.model_id for model in logged} | set(_deleted_models(client))
    items = _folder_items(client, artifacts, folders, known)
    registered = {version.model_id for model in models for version in model.versions}
    for model in logged:
        if model.source_run_id not in runs and model.model_id not in registered and OURS in (model.params or {}):
            what, size_bytes = f"logged model {model.model_id}", artifacts.size_of(model.artifact_location)
            why, model_ids = "neither its run nor a version is there", (model.model_id,)
            items.append(Item(ORPHAN, what, why, model_ids=model_ids, size_bytes=size_bytes))
    store = identify_store(client.tracking_uri)
    for folder in here:
        if folder.run_id not in runs and folder.read(STORE) == store:
            items.append(_run_folder_item(folder))
    deleted = sum(run.deleted for run in runs.values())
    kept = {f"{deleted} runs that were deleted in MLflow's UI": "mlflow gc frees them"} if deleted else {}
    return Plan(tuple(items), kept)


def _run_folder_item(folder: RunFolder) -> Item:
    return Item(ORPHAN, str(folder.path), "its run is gone", run_ids=(folder.run_id,), size_bytes=size_of(folder.path))


def _artifact_folders(artifacts: Artifacts) -> Iterator[Path]:
    for root in artifacts.roots:
        for parent, pattern in ((root, RUN), (root / MODELS, MODEL)):
            if parent.is_dir():
                yield from (path for path in sorted(parent.iterdir()) if pattern.fullmatch(path.name)
                            and path.is_dir() and not path.is_symlink())  # fmt: skip


def _folder_items(client: MlflowClient, artifacts: Artifacts, folders: list[Path], known: set[str]) -> list[Item]:
    unknown = [path for path in folders if path.name not in known]
    if not unknown or client.tracking_uri.startswith("http"):  # a server does not say what was deleted softly
        return []
    others = _known_to_others(client, artifacts)
    return [Item(ORPHAN, str(path), "no run or logged model of this store has these files", paths=(path,),
                 size_bytes=size_of(path)) for path in unknown if path.name not in others]  # fmt: skip


def _deleted_models(client: MlflowClient) -> list[str]:
    """Logged models that were deleted softly, which MLflow's search leaves out."""
    store: Any = client._tracking_client.store
    return list(store._get_deleted_logged_models()) if hasattr(store, "_get_deleted_logged_models") else []


def _known_to_others(client: MlflowClient, artifacts: Artifacts) -> set[str]:
    """Runs and logged models of other SQLite stores beside the same artifacts, as when a project changed its store."""
    found: set[str] = set()
    for folder in {root.parent.parent for root in artifacts.roots}:
        for path in folder.glob("*.db"):
            if path != sqlite_path(client.tracking_uri):
                found |= _names_in(path)
    return found


def _names_in(path: Path) -> set[str]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            questions = ("select run_uuid from runs", "select model_id from logged_models")
            return {row[0] for question in questions for row in database.execute(question)}
    except sqlite3.Error:  # no store of MLflow
        return set()
