"""Checks of labels from outside: their ids, classes and sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.records import MAX_LABEL, Label, shorten, source_problem

FIELDS = ("id", "label", "source", "at")
_SHOWN = 5  # classes in a message


def parse_label(value: object) -> Label | str:
    """Return the label of a JSON value, or the reason why it is none.

    `source` is optional, and `person` without one; `at` is optional, in Unix seconds.
    """
    if not isinstance(value, Mapping):
        return f"an object with id and label is expected, not {shorten(value)}"
    if unknown := [name for name in value if name not in FIELDS]:
        return f"{shorten(unknown[0])} is no field; use {', '.join(FIELDS)}"
    answer_id, label, at = value.get("id"), value.get("label"), value.get("at")
    if not isinstance(answer_id, str) or not isinstance(label, str):
        return "id and label must be text"
    if at is not None and (
        not isinstance(at, int | float) or isinstance(at, bool) or not math.isfinite(at) or at < 0
    ):
        return f"at must be a time in Unix seconds, not {shorten(at)}"
    source: Any = value.get("source", "person")
    return source_problem(source) or Label(
        answer_id, label, source, None if at is None else float(at)
    )


def make_check(identities: Identities, classes: Collection[str]) -> Callable[[Label], str | None]:
    """Return a function from a label to the reason to refuse it, or None.

    Args:
        identities: those that made the ids of the answers.
        classes: classes of the model, in all of its versions.
    """
    class_names = frozenset(classes)

    def check(label: Label) -> str | None:
        if not identities.is_valid(label.id):
            return f"{shorten(label.id)} is no id of an answer"
        if label.label not in class_names:
            names = ", ".join(sorted(class_names)[:_SHOWN])
            more = " and others" if len(class_names) > _SHOWN else ""
            return (
                f"{shorten(label.label[:MAX_LABEL])} is no class of the model; it has {names}{more}"
            )
        return source_problem(label.source)

    return check
