"""Class lists, recorded as tags of registered models, of their versions and of their stages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.core.names import ModelName
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.entities import RegisteredModel
from eyevsai.store.tags import CLASSES_SHA256

if TYPE_CHECKING:
    from mlflow import MlflowClient


# tag of a version or a registered model: its class list; the tag CLASSES_SHA256 has the hash
CLASSES = "classes"
# tags of a version or of a promotion that changed the class list
ADDED, REMOVED = ("classes_added", "classes_removed")
MODEL_TAG, VERSION_TAG = 5000, 100_000  # maximum length of their tags in MLflow, in characters
LEAST_SHARED = 0.5  # minimum share of recorded classes; with fewer it is another dataset
SHOWN = 8  # class names in a message


@dataclass(frozen=True)
class ClassChange:
    """Difference between a recorded class list and a new one.

    `shared` is the share of the recorded classes that remain, 1.0 if none were recorded.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    shared: float

    @property
    def is_empty(self) -> bool:
        """True if both lists have the same classes, in any order."""
        return not self.added and not self.removed

    def __str__(self) -> str:
        parts = (("added", self.added), ("removed", self.removed))
        return "; ".join(f"{verb} {name_some(classes)}" for verb, classes in parts if classes)

    def tags(self) -> dict[str, str]:
        """Return the tags that record the difference; empty if there is no difference."""
        parts = ((ADDED, self.added), (REMOVED, self.removed))
        return (
            {}
            if self.is_empty
            else {tag: _to_json(classes)[:VERSION_TAG] for tag, classes in parts}
        )


def compare_classes(recorded: Sequence[str], new: Sequence[str]) -> ClassChange:
    """Return the difference between a recorded class list and a new one."""
    removed = tuple(sorted(set(recorded) - set(new)))
    shared = 1 - len(removed) / len(set(recorded)) if recorded else 1.0
    return ClassChange(tuple(sorted(set(new) - set(recorded))), removed, shared)


def hash_classes(classes: Iterable[str]) -> str:
    """Return the SHA-256 of a class list, independent of the order of its classes."""
    return hashlib.sha256(_to_json(sorted(classes)).encode()).hexdigest()


def class_tags(
    classes: Sequence[str], prefix: str = "", *, longest: int = MODEL_TAG
) -> dict[str, str]:
    """Return the tags that record a class list: the list as JSON, and its hash.

    Args:
        classes: class names.
        prefix: prefix of both tags.
        longest: maximum length of a tag in characters; the tag of a longer list is empty.
    """
    text = _to_json(classes)
    return {
        f"{prefix}{CLASSES}": text if len(text) <= longest else "",
        f"{prefix}{CLASSES_SHA256}": hash_classes(classes),
    }


def read_classes(tags: Mapping[str, str], prefix: str = "") -> tuple[str, ...] | None:
    """Return the class list in tags; None if it is missing or does not match its hash."""
    try:
        classes = tuple(map(str, json.loads(tags.get(f"{prefix}{CLASSES}", ""))))
    except (ValueError, TypeError):
        return None
    return classes if hash_classes(classes) == tags.get(f"{prefix}{CLASSES_SHA256}") else None


def recorded_classes(model: RegisteredModel, prefix: str = "") -> tuple[str, ...] | None:
    """Return the class list of a registered model, or of one of its stages.

    A list that is too long for a tag of the model is read from a version with the same hash. None
    if no list is recorded, or if no version has it.

    Args:
        model: registered model.
        prefix: result of `stage_prefix` for the list of a stage.
    """
    classes, digest = read_classes(model.tags, prefix), model.tags.get(f"{prefix}{CLASSES_SHA256}")
    if classes is None and digest:
        tags_of_same_list = (
            version.tags
            for version in reversed(model.versions)
            if version.tags.get(CLASSES_SHA256) == digest
        )
        classes = next(filter(None, map(read_classes, tags_of_same_list)), None)
    return classes


def record_classes(
    client: MlflowClient, name: str, classes: Sequence[str], prefix: str = ""
) -> None:
    """Record the class list of a registered model, or of one of its stages.

    Args:
        client: client of the store.
        name: name of the registered model.
        classes: class names.
        prefix: result of `stage_prefix` for the list of a stage.
    """
    for tag, value in class_tags(classes, prefix).items():
        retry_on_conflict(partial(client.set_registered_model_tag, name, tag, value))


def stage_prefix(stage: str) -> str:
    """Return the prefix of the tags with the classes last promoted to a stage."""
    return f"{stage}."


def check_change(
    name: ModelName, recorded: Sequence[str], new: Sequence[str], *, consented: bool
) -> ClassChange:
    """Return the difference between the classes of a registered model and of a new version.

    Args:
        name: dataset, model and variation that the registered model is named after.
        recorded: class list of the registered model.
        new: class list of the new version.
        consented: True if the user allowed a difference.

    Raises:
        UserError: fewer than half of the recorded classes remain, or there is a difference without
            consent.
    """
    change = compare_classes(recorded, new)
    if change.shared < LEAST_SHARED:
        remain = len(set(recorded)) - len(change.removed)
        raise UserError(
            f"The dataset {name.dataset} cannot be a new version of {name.registered}: it has "
            f"{remain} of the {len(set(recorded))} classes of that model "
            f"({name_some(recorded)}), and the classes {name_some(new)}. If it is another "
            "dataset in a folder of the same name, set its name with "
            "--dataset-name NAME."
        )
    if not change.is_empty and not consented:
        raise UserError(
            f"The classes of {name.dataset} differ from those of the newest version of "
            f"{name.registered}: {change}. To train a version with other classes, add "
            "--class-change true; if it is another dataset, add --dataset-name NAME."
        )
    return change


def name_some(classes: Sequence[str]) -> str:
    """Return the first class names, and the number of further ones, for a message."""
    rest = len(classes) - SHOWN
    return ", ".join(classes[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _to_json(classes: Iterable[str]) -> str:
    return json.dumps(list(classes), ensure_ascii=False, separators=(",", ":"))
