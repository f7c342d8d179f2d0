"""Versions of registered models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.errors import UserError
from eyevsai.names import ModelName
from eyevsai.run_folder import MODEL_ID, VERSION_URI, RunFolder


def register(tracking_uri: str, name: ModelName, model_id: str, run_id: str, tags: Mapping[str, Any]) -> str:
    """Registers a logged model as the next version under its name and returns `models:/NAME/VERSION`.

    Raises:
        UserError: another dataset's name is written the same way.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        client.create_registered_model(name.registered, tags=vars(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        check_name(tracking_uri, name)
    texts = {key: str(value) for key, value in tags.items()}
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name.registered and version.tags.items() >= texts.items():
            return f"models:/{name.registered}/{version.version}"  # told twice by a run that was interrupted
    source = f"models:/{model_id}"
    version = client.create_model_version(name.registered, source, run_id, tags=texts, model_id=model_id)
    return f"models:/{name.registered}/{version.version}"


def carry_out(client: MlflowClient, folder: RunFolder, arguments: dict[str, Any]) -> None:
    """The spool's operation `version`: registers the logged model of a run and tags the run with the version."""
    name = ModelName(**arguments["name"])
    uri = register(client.tracking_uri, name, folder.read(MODEL_ID), folder.run_id, arguments["tags"])
    client.set_tag(folder.run_id, "version", uri)
    folder.write(VERSION_URI, uri)


def check_name(tracking_uri: str, name: ModelName) -> None:
    """Raises UserError when the registered model of this name belongs to another dataset."""
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        owner = client.get_registered_model(name.registered).tags.get("dataset", name.dataset)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    if owner != name.dataset:
        raise UserError(
            f"The registered model {name.registered} belongs to the dataset {owner!r}, whose name is written "
            f"like {name.dataset!r} in a registry. Rename one of the two folders."
        )


CARRIERS = {"version": carry_out}
