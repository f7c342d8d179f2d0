"""Registration of a run's model as the next version of a registered model."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.names import ModelName, registered_name
from eyevsai.registry.classes import (
    ADDED,
    check_change,
    class_tags,
    record_classes,
    recorded_classes,
)
from eyevsai.registry.entities import logged_model_of, open_registry, read_model
from eyevsai.registry.versions import REGISTERED_BY, check_not_reserved, find_version
from eyevsai.store.backend import MISSING
from eyevsai.store.tags import SOURCE_VERSION

VERSION = "version"  # the tag of a run that holds the URI of its version


def register(
    tracking_uri: str,
    name: ModelName,
    model_id: str | None,
    run_id: str,
    tags: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    class_change: bool = False,
) -> str:
    """Register a logged model as the next version under its name and return `models:/NAME/VERSION`.

    The run is tagged with it. Without a logged model the version leads to the run's artifacts.

    Args:
        tracking_uri: the store.
        name: what the registered model is named after.
        model_id: of the logged model.
        run_id: the run that trained it.
        tags: of the version.
        classes: the class list that the registered model has from now on; None leaves it as it is.
        class_change: consent to another list than the one it has; the difference becomes tags of
            the version.

    Raises:
        UserError: another dataset's name is written the same way, or the classes differ and nobody
            consented.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    if not _make_model(
        client, name.registered, vars(name) | (class_tags(classes) if classes else {})
    ):
        check_name(tracking_uri, name)
    texts = {key: str(value) for key, value in tags.items()}
    version = _find_registered(client, name, run_id, texts)
    if version is None:
        difference = _check_classes(client, name, classes, consented=class_change)
        source = f"models:/{model_id}" if model_id else client.get_run(run_id).info.artifact_uri
        told = texts | difference
        version = client.create_model_version(
            name.registered, source, run_id, tags=told, model_id=model_id
        )
    # after the version exists: a retry finds it, and not a changed list
    if classes and ADDED in version.tags:
        record_classes(client, name.registered, classes)
    uri = f"models:/{name.registered}/{version.version}"
    client.set_tag(run_id, VERSION, uri)
    return uri


def _make_model(client: MlflowClient, name: str, tags: dict[str, str]) -> bool:
    """Makes a registered model; False when there is one of this name."""
    try:
        client.create_registered_model(name, tags=tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


def _check_classes(
    client: MlflowClient, name: ModelName, classes: Sequence[str] | None, *, consented: bool
) -> dict[str, str]:
    """Return the tags with the difference between a new class list and the one that the registered
    model has.

    A model that has none yet gets this one.
    """
    if not classes:
        return {}
    recorded = recorded_classes(read_model(client, name.registered))
    if recorded is None:
        record_classes(client, name.registered, classes)
        return {}
    return check_change(name, recorded, classes, consented=consented).tags()


def _find_registered(
    client: MlflowClient, name: ModelName, run_id: str, tags: Mapping[str, str]
) -> ModelVersion | None:
    """The version that a run registered before it was interrupted."""
    of_run = client.search_model_versions(f"run_id = '{run_id}'")
    told = (
        each
        for each in of_run
        if each.name == name.registered and each.tags.items() >= tags.items()
    )
    return next(told, None)


def check_name(tracking_uri: str, name: ModelName) -> None:
    """Raises UserError when the registered model of this name belongs to another dataset."""
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        owner = client.get_registered_model(name.registered).tags.get("dataset", name.dataset)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return
    if owner != name.dataset:
        raise UserError(
            f"The registered model {name.registered} belongs to the dataset {owner!r}, whose "
            f"name is written like {name.dataset!r} in a registry. Rename one of the two folders."
        )


def create_reference(tracking_uri: str, dataset: str, uri: str) -> tuple[str, int]:
    """Makes the model of a version one of the registered model that is called like its dataset;
    returns name, number.

    The newest one that points there already is taken.
    """
    client, name = open_registry(tracking_uri), registered_name(dataset)
    original = find_version(tracking_uri, uri)
    _make_model(client, name, {"dataset": dataset})
    model = read_model(client, name)
    if model.tags.get("dataset") != dataset or "variation" in model.tags:
        raise UserError(
            f"The registered model {name} is not the one of the dataset {dataset!r}, whose name "
            "is written like it in a registry. Rename the folder of the dataset."
        )
    if there := [each.number for each in model.versions if each.tags.get(SOURCE_VERSION) == uri]:
        return name, there[-1]
    source = str(client.get_model_version(original.name, original.number).source)
    # the rest is read over there
    told = {SOURCE_VERSION: uri, "dataset": dataset, REGISTERED_BY: getpass.getuser()}
    version = client.create_model_version(
        name, source, original.run_id, tags=told, model_id=logged_model_of(source)
    )
    try:
        check_not_reserved(tracking_uri, uri)
    except UserError:
        client.delete_model_version(name, version.version)
        raise
    return name, int(version.version)
