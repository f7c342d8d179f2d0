"""Conversion of values to plain types for JSON output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any


def to_json(value: Any) -> Any:
    """Convert a value to types that `json.dumps` accepts.

    Dataclasses and mappings become dicts with text keys, tuples and sets lists, paths text, and
    datetimes ISO 8601 text in seconds, all recursively. A `to_json` method of the value takes
    precedence. Other values are returned unchanged.
    """
    if callable(method := getattr(value, "to_json", None)) and not isinstance(value, type):
        return method()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return str(value) if isinstance(value, Path) else value
