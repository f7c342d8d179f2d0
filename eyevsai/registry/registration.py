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
from eyevsai.registry.descriptions import write_descriptions
from eyevsai.registry.entities import logged_model_of, open_registry, read_model
from eyevsai.registry.lookup import check_not_reserved, find_version
from eyevsai.registry.versions import REGISTERED_BY
from eyevsai.store.backend import MISSING
from eyevsai.store.tags import SOURCE_VERSION

VERSION = "version"  # tag of a run: the URI of its version


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
    """Register a logged model as a new version and return the version's URI.

    The URI is `models:/NAME/VERSION`; it is also logged as a tag of the run. A version that the
    same run registered before an interruption is reused.

    Args:
        tracking_uri: URI of the tracking store.
        name: dataset, model and variation that the registered model is named after.
        model_id: id of the logged model; None registers the artifacts of the run.
        run_id: id of the run that trained the model.
        tags: tags of the version.
        classes: new class list of the registered model; None leaves its list unchanged.
        class_change: allow another class list than the recorded one; the difference becomes tags of
            the version.

    Raises:
        UserError: another dataset has the same name in the registry, or the classes differ and
            `class_change` is False.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    if not _create_model(
        client, name.registered, vars(name) | (class_tags(classes) if classes else {})
    ):
        check_name(tracking_uri, name)
    texts = {key: str(value) for key, value in tags.items()}
    version = _find_registered(client, name, run_id, texts)
    if version is None:
        difference = _check_classes(client, name, classes, consented=class_change)
        source = f"models:/{model_id}" if model_id else client.get_run(run_id).info.artifact_uri
        version_tags = texts | difference
        version = client.create_model_version(
            name.registered, source, run_id, tags=version_tags, model_id=model_id
        )
    # after the version exists: a retry then finds the version, not a changed class list
    if classes and ADDED in version.tags:
        record_classes(client, name.registered, classes)
    uri = f"models:/{name.registered}/{version.version}"
    client.set_tag(run_id, VERSION, uri)
    write_descriptions(client, name.registered, [int(version.version)])
    return uri


def _create_model(client: MlflowClient, name: str, tags: dict[str, str]) -> bool:
    """Create a registered model; return False if the name is in use."""
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
    """Return tags with the difference between `classes` and the recorded class list.

    A registered model without a class list gets this one, and there are no tags.
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
    """Return the version that a run registered before an interruption; None if none."""
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    matches = (
        each
        for each in versions
        if each.name == name.registered and each.tags.items() >= tags.items()
    )
    return next(matches, None)


def check_name(tracking_uri: str, name: ModelName) -> None:
    """Raise UserError if the registered model `name` belongs to another dataset."""
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        owner = client.get_registered_model(name.registered).tags.get("dataset", name.dataset)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return
    if owner != name.dataset:
        raise UserError(
            f"The registered model {name.registered} belongs to the dataset {owner!r}; "
            f"{name.dataset!r} has the same name in the registry. Rename one of the two folders."
        )


def create_reference(tracking_uri: str, dataset: str, uri: str) -> tuple[str, int]:
    """Register a version's model also under the name of a dataset; return name and number.

    The newest reference to the same version is reused.

    Args:
        tracking_uri: URI of the tracking store.
        dataset: name of the dataset.
        uri: `models:/` URI of the version.

    Raises:
        UserError: the version does not exist, a cleanup is deleting it, or the registered model of
            that name does not belong to the dataset.
    """
    client, name = open_registry(tracking_uri), registered_name(dataset)
    original = find_version(tracking_uri, uri)
    _create_model(client, name, {"dataset": dataset})
    model = read_model(client, name)
    if model.tags.get("dataset") != dataset or "variation" in model.tags:
        raise UserError(
            f"The registered model {name} does not belong to the dataset {dataset!r}, which "
            "has the same name in the registry. Rename the folder of the dataset."
        )
    if references := [
        each.number
        for each in model.versions
        # after a renaming, another version may have the same URI
        if each.tags.get(SOURCE_VERSION) == uri and each.run_id == original.run_id
    ]:
        return name, references[-1]
    source = str(client.get_model_version(original.name, original.number).source)
    # further tags are read from the referenced version
    tags = {SOURCE_VERSION: uri, "dataset": dataset, REGISTERED_BY: getpass.getuser()}
    version = client.create_model_version(
        name, source, original.run_id, tags=tags, model_id=logged_model_of(source)
    )
    try:
        check_not_reserved(tracking_uri, uri)
    except UserError:
        client.delete_model_version(name, version.version)
        raise
    write_descriptions(client, name, [int(version.version)])
    return name, int(version.version)
