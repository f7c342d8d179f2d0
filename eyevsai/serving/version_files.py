"""Comparison of the files of a registered version with the checksums in the registry."""

from __future__ import annotations

import json
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.evaluation.reference import CARD as REFERENCE_CARD
from eyevsai.evaluation.reference import read_reference
from eyevsai.formats.manifest import MANIFEST
from eyevsai.models.serialization import check_weights
from eyevsai.registry.versions import EXPORT, MANIFEST_SHA256, Version, tag_values
from eyevsai.serving.model_dir import (
    EXPORT_FOLDER,
    MODEL_FOLDER,
    REFERENCE_FOLDER,
    SERVED,
    check_files,
)
from eyevsai.store.tags import FILES_SHA256, REFERENCE_SHA256


def check_version_files(tracking_uri: str, version: Version, model_dir: Path) -> tuple[str, str]:
    """Compare the files of a version with their checksums in the registry.

    Args:
        tracking_uri: URI of the tracking store.
        version: version with the checksums.
        model_dir: its model directory.

    Returns:
        The SHA-256 of the weights, and a noun phrase for the files that were compared.

    Raises:
        UserError: a file is not the one that was registered or exported, or the registry has no
            valid checksums.
    """
    weights = check_weights(model_dir / MODEL_FOLDER)
    manifest = model_dir / EXPORT_FOLDER / MANIFEST
    expected = tag_values(tracking_uri, version.run_id, f"{EXPORT}.{SERVED}.{MANIFEST_SHA256}")
    if manifest.is_file() and expected and hash_file(manifest) not in expected:
        raise UserError(
            f"{manifest} has changed since the export (SHA-256). Export the model again."
        )
    _check_reference(tracking_uri, version, model_dir)
    if FILES_SHA256 not in version.tags:
        # an earlier eyevsai, which recorded only the checksum of the weights, registered it
        return weights, "its weights"
    try:
        expected_files = dict(json.loads(version.tags[FILES_SHA256]))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the tag {FILES_SHA256} of {version.uri} was changed: it is not a JSON object."
        ) from error
    check_files(model_dir, expected_files)
    return weights, "all its files"


def _check_reference(tracking_uri: str, version: Version, model_dir: Path) -> None:
    """Raise UserError if the drift reference of a version is damaged, or was changed later."""
    folder = model_dir / REFERENCE_FOLDER
    if not folder.is_dir():
        return
    read_reference(folder)
    expected = tag_values(tracking_uri, version.run_id, REFERENCE_SHA256)
    if expected and hash_file(folder / REFERENCE_CARD) not in expected:
        raise UserError(
            f"{folder / REFERENCE_CARD} has changed since it was stored (SHA-256). Create it again "
            f"with: eyevsai evaluate {version.argument}"
        )
