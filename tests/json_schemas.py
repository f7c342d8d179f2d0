"""Checks of the JSON schemas of eyevsai, whose descriptions error messages quote."""

from __future__ import annotations

from typing import Any


def list_undescribed(schema: Any) -> list[Any]:
    """Return the subschemas that can fail, but lack a description."""
    if not isinstance(schema, dict):
        return []
    own = [schema] if {"type", "enum"} & schema.keys() and "description" not in schema else []
    inner = [value for key, value in schema.items() if key not in ("if", "not")]
    return own + [each for value in inner for each in list_undescribed(value)]
