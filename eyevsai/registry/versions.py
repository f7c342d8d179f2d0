"""Versions of registered models."""

from __future__ import annotations

import getpass
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from eyevsai.errors import UserError
from eyevsai.names import ModelName, choose, registered_name
from eyevsai.registry.classes import ADDED, check_change, class_tags, record_classes, recorded_classes
from eyevsai.run_folder import MODEL_ID, VERSION_URI, RunFolder

MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow says of what is not there
VERSION = "version"  # the tag of a run that holds the URI of its version


def register(
    tracking_uri: str, name: ModelName, model_id: str | None, run_id: str, tags: Mapping[str, Any],
    *, classes: Sequence[str] | None = None, class_change: bool = False,
) -> str:  # fmt: skip
    """Register a logged model as the next version under its name and return `models:/NAME/VERSION`.

    The run is tagged with it. Without a logged model the version leads to the run's artifacts.

    Args:
        tracking_uri: the store.
        name: what the registered model is named after.
        model_id: of the logged model.
        run_id: the run that trained it.
        tags: of the version.
        classes: the class list that the registered model has from now on; None leaves it as it is.
        class_change: consent to another list than the one it has; the difference becomes tags of the version.

    Raises:
        UserError: another dataset's name is written the same way, or the classes differ and nobody consented.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    if not _make_model(client, name.registered, vars(name) | (class_tags(classes) if classes else {})):
        check_name(tracking_uri, name)
    texts = {key: str(value) for key, value in tags.items()}
    version = _find_told(client, name, run_id, texts)
    if version is None:
        difference = _check_classes(client, name, classes, consented=class_change)
        source = f"models:/{model_id}" if model_id else client.get_run(run_id).info.artifact_uri
        told = texts | difference
        version = client.create_model_version(name.registered, source, run_id, tags=told, model_id=model_id)
    if classes and ADDED in version.tags:  # after the version exists: a retry finds it, and not a changed list
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
    """Return the tags with the difference between a new class list and the one that the registered model has.

    A model that has none yet gets this one.
    """
    from eyevsai.registry.models import read_model

    if not classes:
        return {}
    recorded = recorded_classes(read_model(client, name.registered))
    if recorded is None:
        record_classes(client, name.registered, classes)
        return {}
    return check_change(name, recorded, classes, consented=consented).tags()


def _find_told(client: MlflowClient, name: ModelName, run_id: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """The version that a run registered before it was interrupted."""
    of_run = client.search_model_versions(f"run_id = '{run_id}'")
    told = (each for each in of_run if each.name == name.registered and each.tags.items() >= tags.items())
    return next(told, None)


def carry_out(client: MlflowClient, folder: RunFolder, arguments: dict[str, Any]) -> None:
    """Queued operation `version`: register the logged model of a run.

    Raises:
        UserError: the model was not stored: a version without files would not load.
    """
    name, model_id = ModelName(**arguments["name"]), folder.read(MODEL_ID)
    if model_id is None:
        raise UserError(f"the model of run {folder.run_id} was not stored, so no version of {name} is registered")
    classes, consented = arguments.get("classes"), bool(arguments.get("class_change"))
    uri = register(
        client.tracking_uri, name, model_id, folder.run_id, arguments["tags"], classes=classes, class_change=consented
    )
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


EXPORT = "export"  # begins the tags of a version that say how its exports fared
THRESHOLD = "threshold"  # the tag of a version below whose value a prediction is unsure
PINNED = "pinned"  # the tag of a version that no cleanup may delete
SIZE, REGISTERED_BY, TESTED = "size_bytes", "registered_by", "test_accuracy"  # tags of a version
WEIGHTS_SHA256 = "weights_sha256"  # the tag of a version: of its weights, by which evaluations belong to it
MANIFEST_SHA256 = "manifest_sha256"  # ends the tag of a version: of an export's manifest, which has its files'
FILES_SHA256 = "files_sha256"  # the tag of a version: JSON, of each file that it was registered with
PRUNED_FROM = "pruned_from"  # the tag of a version, and of its run, that says of which one it is a smaller form
POINTS_AT = "points_at"  # the tag of a version that is another one's model under one more name, and says whose

URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|/(?P<stage>[A-Za-z]+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.number}"

    @property
    def threshold(self) -> float | None:
        """The probability below which it had better not answer, if an evaluation kept one."""
        kept = self.tags.get(THRESHOLD)
        return None if kept is None else float(kept)

    @property
    def original(self) -> str:
        """The URI under which the model was registered when it was trained."""
        return self.tags.get(POINTS_AT, self.uri)


def exports_of(tags: Mapping[str, str]) -> dict[str, str]:
    """How a version's exports fared, `passed` or `refused`, by format."""
    pairs = ((name.removeprefix(f"{EXPORT}."), how) for name, how in tags.items() if name.startswith(f"{EXPORT}."))
    return {name: how for name, how in pairs if "." not in name}


def find_version(tracking_uri: str, uri: str) -> Version:
    """The version that `models:/NAME/VERSION`, `models:/NAME/STAGE` or `models:/NAME@ALIAS` means.

    Raises:
        UserError: the text is no such URI, or there is no such model or version.
    """
    parts = URI.fullmatch(uri)
    if parts is None:
        raise UserError(f"{uri} names no version. It is models:/NAME/VERSION, models:/NAME/Production or "
                        "models:/NAME@ALIAS.")  # fmt: skip
    client, name = MlflowClient(tracking_uri=tracking_uri), parts["name"]
    try:
        if parts["version"]:
            found = client.get_model_version(name, parts["version"])
        elif parts["alias"]:
            found = client.get_model_version_by_alias(name, parts["alias"])
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # stages are on their way out of MLflow
                (found,) = client.get_latest_versions(name, [parts["stage"]])
    except (MlflowException, ValueError) as error:
        if getattr(error, "error_code", MISSING[0]) not in MISSING:
            raise
        choose("registered model", name, [model.name for model in client.search_registered_models(max_results=1000)])
        there = sorted({int(each.version) for each in client.search_model_versions(f"name = '{name}'")})
        raise UserError(f"There is no {uri}. Versions of {name}: {', '.join(map(str, there)) or 'none'}; `eyevsai ui` "
                        "shows their stages and aliases.") from error  # fmt: skip
    return _with_original(client, Version(found.name, str(found.version), found.run_id or "", dict(found.tags)))


def _with_original(client: MlflowClient, version: Version) -> Version:
    """A version that points at another one with what is known of that one."""
    parts = URI.fullmatch(version.tags.get(POINTS_AT, ""))
    if parts is None or not parts["version"]:
        return version
    try:
        original = client.get_model_version(parts["name"], parts["version"])
    except MlflowException:  # it was deleted; the model itself is still there
        return version
    return replace(version, tags={**original.tags, **version.tags})


def find_location(client: MlflowClient, name: str, number: int) -> str:
    """Where the store keeps the files of a version."""
    return str(client.get_model_version_download_uri(name, str(number)))


def model_id_of(tracking_uri: str, version: Version) -> str | None:
    """Return the id of the logged model that a version leads to, also by way of the version that it is a copy of."""
    from eyevsai.registry.models import logged_model_of

    client, uri, seen = MlflowClient(tracking_uri=tracking_uri), version.uri, set[str]()
    while (parts := URI.fullmatch(uri)) and parts["version"] and uri not in seen:
        seen.add(uri)
        uri = str(client.get_model_version(parts["name"], parts["version"]).source)
    return logged_model_of(uri) or None


def version_of_run(tracking_uri: str, run_id: str) -> Version | None:
    """The newest version that was registered of a run's model; None when there is none."""
    found = MlflowClient(tracking_uri=tracking_uri).search_model_versions(f"run_id = '{run_id}'")
    own = [version for version in found if POINTS_AT not in version.tags]
    newest = max(own, key=lambda version: int(version.version), default=None)
    return None if newest is None else Version(newest.name, str(newest.version), run_id, dict(newest.tags))


def tag_values(tracking_uri: str, run_id: str, tag: str) -> set[str]:
    """Return the values of a tag of all versions of a run: copies of a version share its files, but not later tags."""
    found = MlflowClient(tracking_uri=tracking_uri).search_model_versions(f"run_id = '{run_id}'")
    return {version.tags[tag] for version in found if tag in version.tags}


def versions_by_run(tracking_uri: str) -> dict[str, Version]:
    """The newest version of each run's model, under the name by which it was registered when it was trained."""
    from eyevsai.registry.models import open_registry, read_models

    found = {}
    for model in read_models(open_registry(tracking_uri)):
        for each in model.versions:
            if each.run_id and POINTS_AT not in each.tags:
                found[each.run_id] = Version(each.name, str(each.number), each.run_id, each.tags)
    return found


def point_at(tracking_uri: str, dataset: str, uri: str) -> tuple[str, int]:
    """Makes the model of a version one of the registered model that is called like its dataset; returns name, number.

    The newest one that points there already is taken.
    """
    from eyevsai.registry.models import logged_model_of, open_registry, read_model

    client, name = open_registry(tracking_uri), registered_name(dataset)
    original = find_version(tracking_uri, uri)
    _make_model(client, name, {"dataset": dataset})
    model = read_model(client, name)
    if model.tags.get("dataset") != dataset or "variation" in model.tags:
        raise UserError(f"The registered model {name} is not the one of the dataset {dataset!r}, whose name is written "
                        "like it in a registry. Rename the folder of the dataset.")  # fmt: skip
    if there := [each.number for each in model.versions if each.tags.get(POINTS_AT) == uri]:
        return name, there[-1]
    source = str(client.get_model_version(original.name, original.number).source)
    told = {POINTS_AT: uri, "dataset": dataset, REGISTERED_BY: getpass.getuser()}  # the rest is read over there
    version = client.create_model_version(name, source, original.run_id, tags=told, model_id=logged_model_of(source))
    try:
        refuse_claimed(tracking_uri, uri)
    except UserError:
        client.delete_model_version(name, version.version)
        raise
    return name, int(version.version)


def refuse_claimed(tracking_uri: str, uri: str) -> None:
    """Raises UserError when a cleanup deletes, or has deleted, the version that `uri` names, if it names one.

    Asked once a run says that it uses the version: either the cleanup sees that run, or this sees its claim.
    """
    from eyevsai.registry.stages import claimed

    parts = URI.fullmatch(uri)
    if parts is None or not parts["version"]:
        return
    version = find_version(tracking_uri, uri)
    model = MlflowClient(tracking_uri=tracking_uri).get_registered_model(version.name)
    if int(version.number) in claimed(model.tags):
        raise UserError(f"{uri} is being deleted by a cleanup. Choose another version.")


def tag_version(tracking_uri: str, version: Version, tags: Mapping[str, Any]) -> None:
    """Sets tags of a version; where it points at another one, of that one."""
    client, told = MlflowClient(tracking_uri=tracking_uri), tagging(version, tags)
    for key, value in told["tags"].items():
        client.set_model_version_tag(told["name"], told["number"], key, value)


def tagging(version: Version, tags: Mapping[str, Any]) -> dict[str, Any]:
    """The same as arguments of the spool's operation `version_tags`, which comes after all that was logged before."""
    parts = URI.fullmatch(version.original)
    name, number = (parts["name"], parts["version"]) if parts else (version.name, version.number)
    return {"name": name, "number": number, "tags": {key: str(value) for key, value in tags.items()}}


def carry_out_tags(client: MlflowClient, _: RunFolder, arguments: dict[str, Any]) -> None:
    """The spool's operation `version_tags`: sets tags of a version, if it is still there."""
    from eyevsai.registry.models import tag_if_there

    tag_if_there(client, arguments["name"], int(arguments["number"]), arguments["tags"])


CARRIERS = {"version": carry_out, "version_tags": carry_out_tags}
