"""Files and logged models that belong to nothing any more, and how it is made sure that they do not."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

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
    there = survey.everything()
    known = there.runs.keys() | there.models.keys() | there.deleted_models
    items = _folder_items(client, artifacts, folders, known)
    registered = {version.model_id for model in models for version in model.versions}
    alone = (each for each, run_id in there.models.items() if run_id not in there.runs and each not in registered)
    items += filter(None, (_logged_model_item(client, artifacts, model_id) for model_id in sorted(alone)))
    store = identify_store(client.tracking_uri)
    items += [_run_folder_item(folder) for folder in here
              if folder.run_id not in there.runs and folder.read(STORE) == store]  # fmt: skip
    deleted = sum(there.runs.values())
    kept = {f"{deleted} runs that were deleted in MLflow's UI": "mlflow gc frees them"} if deleted else {}
    return Plan(tuple(items), kept)


def _logged_model_item(client: MlflowClient, artifacts: Artifacts, model_id: str) -> Item | None:
    """A logged model that has neither run nor version; None for one that eyevsai did not log."""
    model = client.get_logged_model(model_id)
    if OURS not in (model.params or {}):
        return None
    return Item(ORPHAN, f"logged model {model_id}", "neither its run nor a version is there", model_ids=(model_id,),
                size_bytes=artifacts.size_of(model.artifact_location))  # fmt: skip


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
