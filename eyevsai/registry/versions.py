"""Versions of registered models."""

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
from eyevsai.registry.stages import reserved_versions
from eyevsai.store.backend import MISSING, MISSING_OR_INVALID
from eyevsai.store.tags import SOURCE_VERSION

EXPORT = "export"  # begins the tags of a version that say how its exports fared
THRESHOLD = "threshold"  # the tag of a version below whose value a prediction is unsure
PINNED = "pinned"  # the tag of a version that no cleanup may delete
SIZE, REGISTERED_BY, TESTED = "size_bytes", "registered_by", "test_accuracy"  # tags of a version
# ends the tag of a version: of an export's manifest, which has its files'
MANIFEST_SHA256 = "manifest_sha256"
EXPORT_WEIGHTS_SHA256 = "weights_sha256"  # ends the tag of a version: of an export's weights

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
        """`models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.number}"

    @property
    def threshold(self) -> float | None:
        """The probability below which it had better not answer, if an evaluation kept one."""
        kept = self.tags.get(THRESHOLD)
        return None if kept is None else float(kept)

    @property
    def source_version(self) -> str:
        """The URI under which the model was registered when it was trained."""
        return self.tags.get(SOURCE_VERSION, self.uri)


def exports_of(tags: Mapping[str, str]) -> dict[str, str]:
    """How a version's exports fared, `passed` or `refused`, by format."""
    pairs = (
        (name.removeprefix(f"{EXPORT}."), how)
        for name, how in tags.items()
        if name.startswith(f"{EXPORT}.")
    )
    return {name: how for name, how in pairs if "." not in name}


def find_version(tracking_uri: str, uri: str) -> Version:
    """The version that `models:/NAME/VERSION`, `models:/NAME/STAGE` or `models:/NAME@ALIAS` means.

    Raises:
        UserError: the text is no such URI, or there is no such model or version.
    """
    parts = URI.fullmatch(uri)
    if parts is None:
        raise UserError(
            f"{uri} names no version. It is models:/NAME/VERSION, models:/NAME/Production or "
            "models:/NAME@ALIAS."
        )
    client, name = MlflowClient(tracking_uri=tracking_uri), parts["name"]
    try:
        if parts["version"]:
            found = client.get_model_version(name, parts["version"])
        elif parts["alias"]:
            found = client.get_model_version_by_alias(name, parts["alias"])
        else:
            with warnings.catch_warnings():
                # stages are on their way out of MLflow
                warnings.simplefilter("ignore", FutureWarning)
                (found,) = client.get_latest_versions(name, [parts["stage"]])
    except (MlflowException, ValueError) as error:
        if getattr(error, "error_code", MISSING) not in MISSING_OR_INVALID:
            raise
        choose(
            "registered model",
            name,
            [model.name for model in client.search_registered_models(max_results=1000)],
        )
        there = sorted(
            {int(each.version) for each in client.search_model_versions(f"name = '{name}'")}
        )
        raise UserError(
            f"There is no {uri}. Versions of {name}: {', '.join(map(str, there)) or 'none'}; "
            "`eyevsai ui` shows their stages and aliases."
        ) from error
    return _resolve_reference(
        client, Version(found.name, str(found.version), found.run_id or "", dict(found.tags))
    )


def _resolve_reference(client: MlflowClient, version: Version) -> Version:
    """A version that points at another one with what is known of that one."""
    parts = URI.fullmatch(version.tags.get(SOURCE_VERSION, ""))
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
    """Return the id of the logged model that a version leads to, also by way of the version that it
    is a copy of.
    """
    client, uri, seen = MlflowClient(tracking_uri=tracking_uri), version.uri, set[str]()
    while (parts := URI.fullmatch(uri)) and parts["version"] and uri not in seen:
        seen.add(uri)
        uri = str(client.get_model_version(parts["name"], parts["version"]).source)
    return logged_model_of(uri) or None


def version_of_run(tracking_uri: str, run_id: str) -> Version | None:
    """The newest version that was registered of a run's model; None when there is none."""
    found = MlflowClient(tracking_uri=tracking_uri).search_model_versions(f"run_id = '{run_id}'")
    own = [version for version in found if SOURCE_VERSION not in version.tags]
    newest = max(own, key=lambda version: int(version.version), default=None)
    return (
        None
        if newest is None
        else Version(newest.name, str(newest.version), run_id, dict(newest.tags))
    )


def tag_values(tracking_uri: str, run_id: str, tag: str) -> set[str]:
    """Return the values of a tag of all versions of a run: copies of a version share its files, but
    not later tags.
    """
    found = MlflowClient(tracking_uri=tracking_uri).search_model_versions(f"run_id = '{run_id}'")
    return {version.tags[tag] for version in found if tag in version.tags}


def versions_by_run(tracking_uri: str) -> dict[str, Version]:
    """The newest version of each run's model, under the name by which it was registered when it was
    trained.
    """
    found = {}
    for model in read_models(open_registry(tracking_uri)):
        for each in model.versions:
            if each.run_id and SOURCE_VERSION not in each.tags:
                found[each.run_id] = Version(each.name, str(each.number), each.run_id, each.tags)
    return found


def check_not_reserved(tracking_uri: str, uri: str) -> None:
    """Raises UserError when a cleanup deletes, or has deleted, the version that `uri` names, if it
    names one.

    Called once a run says that it uses the version: either the cleanup sees that run, or this
    sees its reservation.
    """
    parts = URI.fullmatch(uri)
    if parts is None or not parts["version"]:
        return
    version = find_version(tracking_uri, uri)
    model = MlflowClient(tracking_uri=tracking_uri).get_registered_model(version.name)
    if int(version.number) in reserved_versions(model.tags):
        raise UserError(f"{uri} is being deleted by a cleanup. Choose another version.")


def tag_version(tracking_uri: str, version: Version, tags: Mapping[str, Any]) -> None:
    """Sets tags of a version; where it points at another one, of that one."""
    client, told = MlflowClient(tracking_uri=tracking_uri), tagging(version, tags)
    for key, value in told["tags"].items():
        client.set_model_version_tag(told["name"], told["number"], key, value)


def tagging(version: Version, tags: Mapping[str, Any]) -> dict[str, Any]:
    """The same as arguments of the write queue's operation `version_tags`, which comes after all
    that was logged before.
    """
    parts = URI.fullmatch(version.source_version)
    name, number = (parts["name"], parts["version"]) if parts else (version.name, version.number)
    return {
        "name": name,
        "number": number,
        "tags": {key: str(value) for key, value in tags.items()},
    }
