"""Validation of external JSON against the JSON Schemas of this package."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

VALUE_LENGTH = 80  # maximum characters of a value or a path in an error message


@cache
def load_validator(package: str, name: str) -> Any:
    """Return the validator of the schema `schemas/<name>` in a package.

    It is stricter than JSON Schema: numbers must be finite, because `json.loads` accepts NaN and
    Infinity, and integers must be ints, because JSON Schema accepts 32.0 as an integer. Validators
    are cached.
    """
    from jsonschema.validators import Draft202012Validator, extend  # slow to import

    schema = json.loads(files(package).joinpath("schemas", name).read_text(encoding="utf-8"))
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_number, "integer": _is_integer}
    )
    return extend(Draft202012Validator, type_checker=types)(schema)


def find_error(validator: Any, content: Any) -> str | None:
    """Return the first error in the order of the schema, or None if the content is valid.

    The error is the predicate of a sentence, for example `lacks format` or `has threshold 2, not a
    number from 0 to 1`. The expected value is the `description` of the subschema that failed.
    """
    try:
        error = next(validator.iter_errors(content), None)
        if error is None:
            return None
        value = json.dumps(error.instance)[:VALUE_LENGTH]
    except RecursionError:
        return "is nested too deeply"
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"lacks {', '.join(_format_path([*error.path, name]) for name in missing)}"
    expected = error.schema["description"]
    if not error.path:
        return f"is {value}, not {expected}"
    return f"has {_format_path(error.path)} {value}, not {expected}"


def _format_path(path: Iterable[str | int]) -> str:
    """Format a path as in JavaScript: `preprocessing.std[0]`, `metrics["a/b"]`."""
    parts = (f".{part}" if str(part).isidentifier() else f"[{json.dumps(part)}]" for part in path)
    return "".join(parts).removeprefix(".")[:VALUE_LENGTH]


def _is_number(_checker: Any, value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_integer(checker: Any, value: Any) -> bool:
    # Excludes huge ints: `minimum` and `maximum` apply only to values that are also numbers.
    return type(value) is int and _is_number(checker, value)
