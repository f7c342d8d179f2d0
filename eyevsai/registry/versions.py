"""Versions of registered models: look-up by run, references and tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.model_ref import format_version, parse_version_uri
from eyevsai.registry.entities import (
    KnownVersion,
    iter_versions,
    logged_model_of,
    open_registry,
    read_models,
    to_snapshot,
)
from eyevsai.store.tags import SOURCE_VERSION

EXPORT = "export"  # prefix of a version's tags with the parity results of its exports
THRESHOLD = "threshold"  # tag of a version: probability below which a prediction is unsure
PINNED = "pinned"  # tag of a version that no cleanup may delete
SIZE, REGISTERED_BY, TESTED = "size_bytes", "registered_by", "test_accuracy"  # tags of a version
TESTED_INTERVAL = "test_accuracy_interval"  # tag of a version: 95 % interval of its test accuracy
# suffix of a version's tag: hash of an export's manifest, which lists the hashes of its files
MANIFEST_SHA256 = "manifest_sha256"
# suffix of a version's tag: hash of the weights of an export
EXPORT_WEIGHTS_SHA256 = "weights_sha256"


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
    def argument(self) -> str:
        """`NAME/VERSION`, quoted for a shell, as the commands take it."""
        return format_version(self.name, self.number)

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


def resolve_reference(client: MlflowClient, version: Version) -> Version:
    """Return a version with the tags of the version that it references added.

    A version that is no reference, or whose referenced version was deleted, is unchanged. If the
    referenced version's model was renamed, the tag `SOURCE_VERSION` has the new name.
    """
    source = parse_version_uri(version.tags.get(SOURCE_VERSION, ""))
    if source is None:
        return version
    try:
        entity = client.get_model_version(source[0], str(source[1]))
    except MlflowException:
        original = None
    else:
        run_id = entity.run_id or ""
        original = Version(entity.name, str(entity.version), run_id, dict(entity.tags))
    if version.run_id and (original is None or original.run_id != version.run_id):
        # the model was renamed, and another one may have its former name
        original = version_of_run(client.tracking_uri, version.run_id)
    if original is None:  # it was deleted; the logged model still exists
        return version
    return replace(version, tags={**original.tags, **version.tags, SOURCE_VERSION: original.uri})


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
    while (source := parse_version_uri(uri)) and uri not in seen:
        seen.add(uri)
        entity = client.get_model_version(source[0], str(source[1]))
        if entity.model_id:  # the source of a copy is outdated after its model was renamed
            return str(entity.model_id)
        uri = str(entity.source)
    return logged_model_of(uri) or None


def version_of_run(tracking_uri: str, run_id: str) -> Version | None:
    """Return the version that a run registered, as `versions_by_run` selects it; None if none."""
    client = open_registry(tracking_uri)
    versions = map(to_snapshot, iter_versions(client, f"run_id = '{run_id}'"))
    return _select_registered(versions).get(run_id)


def versions_by_run(tracking_uri: str) -> dict[str, Version]:
    """Return the version that each run registered by run id.

    Of several versions of a run, the newest is returned. References are left out. A copy, which
    MLflow's `copy_model_version` or its UI made in another registered model, has the same run, and
    is returned only if the version that the run registered was deleted.
    """
    models = read_models(open_registry(tracking_uri))
    return _select_registered(each for model in models for each in model.versions)


def _select_registered(versions: Iterable[KnownVersion]) -> dict[str, Version]:
    registered = [each for each in versions if each.run_id and SOURCE_VERSION not in each.tags]
    # the last one of a run is the one to return
    registered.sort(key=lambda each: (not each.is_copy, each.created_ms, each.number))
    return {
        each.run_id: Version(each.name, str(each.number), each.run_id, each.tags)
        for each in registered
    }


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
    name, number = parse_version_uri(version.source_version) or (version.name, version.number)
    return {
        "name": name,
        "number": str(number),
        "tags": {key: str(value) for key, value in tags.items()},
    }
