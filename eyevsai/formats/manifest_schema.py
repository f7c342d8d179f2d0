"""What a manifest has to say for an export to be opened by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.models.transfer.settings import INTERPOLATIONS

MOST_PX = 2048  # of the side of what a model sees
AGAIN = "Export the model again."


def validate_manifest(manifest: Any, place: str) -> None:
    """Raises UserError, naming the field, when a manifest lacks one that opening needs, or has it
    of another kind.
    """
    for name, (is_right, expected) in FIELDS.items():
        value = manifest
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise UserError(f"{place} does not say {name}, which is {expected}. {AGAIN}")
            value = value[part]
        if not is_right(value):
            raise UserError(f"{place} says {name} {value!r:.80}, but it is {expected}. {AGAIN}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # a truth value is an int to Python


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(map(_is_text, value))
        and len(set(value)) == len(value)
    )


def _are_three(value: Any, least: float) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(_is_number(each) and each > least for each in value)
    )


def _are_sums(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_text, value.values()))


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (_is_text, "the name of a format"),
    "family": (_is_text, "the name of a family"),
    "variation": (_is_text, "the name of a variation"),
    "classes": (_are_names, "a list of names, each once"),
    "preprocessing.image_size": (
        lambda value: type(value) is int and 1 <= value <= MOST_PX,
        f"a whole number from 1 to {MOST_PX}",
    ),
    "preprocessing.mean": (lambda value: _are_three(value, -math.inf), "a list of three numbers"),
    "preprocessing.std": (lambda value: _are_three(value, 0), "a list of three numbers above 0"),
    "preprocessing.interpolation": (
        lambda value: value in INTERPOLATIONS,
        " or ".join(INTERPOLATIONS),
    ),
    "settings": (lambda value: isinstance(value, dict), "an object"),
    "threshold": (
        lambda value: value is None or (_is_number(value) and 0 <= value <= 1),
        "null or a number from 0 to 1",
    ),
    "files": (_are_sums, "an object from the name of each file to its SHA-256"),
}
