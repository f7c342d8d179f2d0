"""Validation of `manifest.json`; `schemas/manifest.json` describes its fields."""

from __future__ import annotations

from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.json_schema import find_error, load_validator

EXPORT_AGAIN = "Export the model again."


def validate_manifest(manifest: Any, path: str) -> None:
    """Raise UserError if a field that opening the export requires is missing or invalid.

    `path` is that of the manifest, for the message.
    """
    if error := find_error(load_validator("eyevsai.formats", "manifest.json"), manifest):
        raise UserError(f"{path} {error}. {EXPORT_AGAIN}")
