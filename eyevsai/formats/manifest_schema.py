"""Validation of `manifest.json`; `schemas/manifest.json` describes its fields."""

from __future__ import annotations

from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.json_schema import find_error, load_validator

AGAIN = "Export the model again."


def validate_manifest(manifest: Any, place: str) -> None:
    """Raise UserError if a field that opening the export needs is missing or invalid."""
    if error := find_error(load_validator("eyevsai.formats", "manifest.json"), manifest):
        raise UserError(f"{place} {error}. {AGAIN}")
