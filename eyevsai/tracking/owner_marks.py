"""Owner marks of the artifact folders of runs and logged models (`eyevsai.store.ownership`)."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from eyevsai.store.identity import ensure_store_id
from eyevsai.store.ownership import write_mark


def mark_run(client: MlflowClient, run_id: str) -> None:
    """Mark the artifact folder of a run as the property of the store.

    Does nothing if the store is a server, is in doubt, or the folder is not on this machine.
    """
    info = client.get_run(run_id).info
    _mark(client, info.artifact_uri, info.experiment_id)


def mark_model(client: MlflowClient, model: LoggedModel) -> None:
    """Mark the artifact folder of a logged model, under the same conditions as `mark_run`."""
    _mark(client, model.artifact_location, model.experiment_id)


def _mark(client: MlflowClient, uri: str, experiment_id: str) -> None:
    if client.tracking_uri.startswith("http") or not is_local_uri(uri):
        return
    store = ensure_store_id(client, str(experiment_id))
    folder = Path(local_file_uri_to_path(uri))
    # The artifact URI ends with `artifacts`, a subfolder of the folder named after the id.
    if store is not None and folder.name == "artifacts":
        write_mark(folder.parent, store)
