"""Versions of registered models: look-up by URI or run, references and tags."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose
from eyevsai.registry.entities import logged_model_of, open_registry, read_models
from eyevsai.registry.stages import reservation_error, reserved_versions
from eyevsai.store.backend import MISSING, MISSING_OR_INVALID
from eyevsai.store.tags import SOURCE_VERSION

EXPORT = "export"  # prefix of a version's tags with the parity results of its exports
THRESHOLD = "threshold"  # tag of a version: probability below which a prediction is unsure
PINNED = "pinned"  # tag of a version that no cleanup may delete
SIZE, REGISTERED_BY, TESTED = "size_bytes", "registered_by", "test_accuracy"  # tags of a version
# suffix of a version's tag: hash of an export's manifest, which lists the hashes of its files
MANIFEST_SHA256 = "manifest_sha256"
# suffix of a version's tag: hash of the weights of an export
EXPORT_WEIGHTS_SHA256 = "weights_sha256"

URI = re.compile(
    r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|/(?P<stage>[A-Za-z]+)|@(?P<alias>[^/@]+))"
)


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """URI `models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.number}"

    @property
    def threshold(self) -> float | None:
        """Probability below which a prediction is unsure; None if no evaluation set one."""
        value = self.tags.get(THRESHOLD)
        return None if value is None else float(value)

    @property
    def source_version(self) -> str:
        """URI of the version that this one references; its own URI if it is no reference."""
        return self.tags.get(SOURCE_VERSION, self.uri)


def exports_of(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the parity result of each export, `passed` or `refused`, by format."""
    pairs = (
        (name.removeprefix(f"{EXPORT}."), result)
        for name, result in tags.items()
        if name.startswith(f"{EXPORT}.")
    )
    return {name: result for name, result in pairs if "." not in name}


def find_version(tracking_uri: str, uri: str) -> Version:
    """Return the version of `models:/NAME/VERSION`, `models:/NAME/STAGE` or `models:/NAME@ALIAS`.

    The tags of a reference include those of the version that it references.

    Raises:
        UserError: the text is not such a URI, or there is no such model or version.
    """
    parts = URI.fullmatch(uri)
    if parts is None:
        raise UserError(
            f"{uri} is not a version. Use models:/NAME/VERSION, models:/NAME/Production or "
            "models:/NAME@ALIAS."
        )
    client, name = MlflowClient(tracking_uri=tracking_uri), parts["name"]
    try:
        if parts["version"]:
            entity = client.get_model_version(name, parts["version"])
        elif parts["alias"]:
            entity = client.get_model_version_by_alias(name, parts["alias"])
        else:
            with warnings.catch_warnings():
                # MLflow has deprecated stages
                warnings.simplefilter("ignore", FutureWarning)
                (entity,) = client.get_latest_versions(name, [parts["stage"]])
    except (MlflowException, ValueError) as error:
        if getattr(error, "error_code", MISSING) not in MISSING_OR_INVALID:
            raise
        choose(
            "registered model",
            name,
            [model.name for model in client.search_registered_models(max_results=1000)],
        )
        numbers = sorted(
            {int(each.version) for each in client.search_model_versions(f"name = '{name}'")}
        )
        raise UserError(
            f"There is no {uri}. Versions of {name}: {', '.join(map(str, numbers)) or 'none'}; "
            "`eyevsai ui` shows their stages and aliases."
        ) from error
    return _resolve_reference(
        client, Version(entity.name, str(entity.version), entity.run_id or "", dict(entity.tags))
    )


def _resolve_reference(client: MlflowClient, version: Version) -> Version:
    """Return a version with the tags of the version that it references added.

    A version that is no reference, or whose referenced version was deleted, is unchanged.
    """
    parts = URI.fullmatch(version.tags.get(SOURCE_VERSION, ""))
    if parts is None or not parts["version"]:
        return version
    try:
        original = client.get_model_version(parts["name"], parts["version"])
    except MlflowException:  # the referenced version was deleted; the logged model still exists
        return version
    return replace(version, tags={**original.tags, **version.tags})


def find_location(client: MlflowClient, name: str, number: int) -> str:
    """Return the location of a version's files in the artifact store.

    Args:
        client: client of the store.
        name: name of the registered model.
        number: number of the version.
    """
    return str(client.get_model_version_download_uri(name, str(number)))


def model_id_of(tracking_uri: str, version: Version) -> str | None:
    """Return the id of a version's logged model; None if it has none.

    The sources of copied versions are followed.
    """
    client, uri, seen = MlflowClient(tracking_uri=tracking_uri), version.uri, set[str]()
    while (parts := URI.fullmatch(uri)) and parts["version"] and uri not in seen:
        seen.add(uri)
        uri = str(client.get_model_version(parts["name"], parts["version"]).source)
    return logged_model_of(uri) or None


def version_of_run(tracking_uri: str, run_id: str) -> Version | None:
    """Return the newest version that a run registered, references excluded; None if none."""
    versions = MlflowClient(tracking_uri=tracking_uri).search_model_versions(f"run_id = '{run_id}'")
    registered = [version for version in versions if SOURCE_VERSION not in version.tags]
    newest = max(registered, key=lambda version: int(version.version), default=None)
    return (
        None
        if newest is None
        else Version(newest.name, str(newest.version), run_id, dict(newest.tags))
    )


def tag_values(tracking_uri: str, run_id: str, tag: str) -> set[str]:
    """Return the values of a tag over all versions of a run.

    Copies of a version share its files, but not the tags that are set later.

    Args:
        tracking_uri: URI of the tracking store.
        run_id: id of the run.
        tag: name of the tag.
    """
    versions = MlflowClient(tracking_uri=tracking_uri).search_model_versions(f"run_id = '{run_id}'")
    return {version.tags[tag] for version in versions if tag in version.tags}


def versions_by_run(tracking_uri: str) -> dict[str, Version]:
    """Return the newest version of each run by run id, references excluded."""
    newest = {}
    for model in read_models(open_registry(tracking_uri)):
        for each in model.versions:
            if each.run_id and SOURCE_VERSION not in each.tags:
                newest[each.run_id] = Version(each.name, str(each.number), each.run_id, each.tags)
    return newest


def check_not_reserved(tracking_uri: str, uri: str) -> None:
    """Raise UserError if a cleanup is deleting or has deleted the version of a URI.

    A URI without a version number passes. Call this after a run has been tagged with the version:
    then either the cleanup sees the run, or this sees the reservation.
    """
    parts = URI.fullmatch(uri)
    if parts is None or not parts["version"]:
        return
    version = find_version(tracking_uri, uri)
    model = MlflowClient(tracking_uri=tracking_uri).get_registered_model(version.name)
    if int(version.number) in reserved_versions(model.tags):
        raise reservation_error(uri)


def tag_version(tracking_uri: str, version: Version, tags: Mapping[str, Any]) -> None:
    """Set tags of a version, or of the version that it references.

    Args:
        tracking_uri: URI of the tracking store.
        version: version, or a reference to one.
        tags: tags to set.
    """
    client, operation = MlflowClient(tracking_uri=tracking_uri), tagging(version, tags)
    for key, value in operation["tags"].items():
        client.set_model_version_tag(operation["name"], operation["number"], key, value)


def tagging(version: Version, tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of the write-queue operation `version_tags`, which sets these tags.

    The operation is applied after all writes that were queued before it.
    """
    parts = URI.fullmatch(version.source_version)
    name, number = (parts["name"], parts["version"]) if parts else (version.name, version.number)
    return {
        "name": name,
        "number": number,
        "tags": {key: str(value) for key, value in tags.items()},
    }
