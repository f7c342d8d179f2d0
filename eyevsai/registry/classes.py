"""Class lists, as tags of registered models, of their versions, and of their stages."""

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


# the tag of a version or a registered model with its list; CLASSES_SHA256 is that with the hash
CLASSES = "classes"
# tags of a version or of a promotion that changed the list
ADDED, REMOVED = ("classes_added", "classes_removed")
MODEL_TAG, VERSION_TAG = 5000, 100_000  # characters that MLflow's database keeps of such a tag
LEAST_SHARED = 0.5  # share of the recorded classes; below it a dataset is taken for another one
SHOWN = 8  # classes that a message names


@dataclass(frozen=True)
class ClassChange:
    """Difference between a recorded class list and a new one; `shared` is the share of recorded
    classes that remain.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    shared: float

    @property
    def is_empty(self) -> bool:
        """True if both lists have the same classes, in whatever order."""
        return not self.added and not self.removed

    def __str__(self) -> str:
        parts = (("added", self.added), ("removed", self.removed))
        return "; ".join(f"{what} {name_some(classes)}" for what, classes in parts if classes)

    def tags(self) -> dict[str, str]:
        """Return the tags that record the difference; none if there is no difference."""
        parts = ((ADDED, self.added), (REMOVED, self.removed))
        return (
            {} if self.is_empty else {tag: _spell(classes)[:VERSION_TAG] for tag, classes in parts}
        )


def compare_classes(recorded: Sequence[str], new: Sequence[str]) -> ClassChange:
    """Return the difference between a recorded class list and a new one."""
    removed = tuple(sorted(set(recorded) - set(new)))
    shared = 1 - len(removed) / len(set(recorded)) if recorded else 1.0
    return ClassChange(tuple(sorted(set(new) - set(recorded))), removed, shared)


def hash_classes(classes: Iterable[str]) -> str:
    """Return the SHA-256 of a class list, whatever the order of its classes."""
    return hashlib.sha256(_spell(sorted(classes)).encode()).hexdigest()


def class_tags(
    classes: Sequence[str], prefix: str = "", *, longest: int = MODEL_TAG
) -> dict[str, str]:
    """Return the tags that record a class list: its hash, and the list itself, empty if it is
    longer than a tag.
    """
    text = _spell(classes)
    return {
        f"{prefix}{CLASSES}": text if len(text) <= longest else "",
        f"{prefix}{CLASSES_SHA256}": hash_classes(classes),
    }


def read_classes(tags: Mapping[str, str], prefix: str = "") -> tuple[str, ...] | None:
    """Return the class list that tags record; None if there is none, or if it does not match its
    hash.
    """
    try:
        found = tuple(map(str, json.loads(tags.get(f"{prefix}{CLASSES}", ""))))
    except (ValueError, TypeError):
        return None
    return found if hash_classes(found) == tags.get(f"{prefix}{CLASSES_SHA256}") else None


def recorded_classes(model: RegisteredModel, prefix: str = "") -> tuple[str, ...] | None:
    """Return the class list that a registered model records, or one of its stages; None if that is
    unknown.

    A list that is too long for a tag of the model is read from a version that has it.
    """
    found, digest = read_classes(model.tags, prefix), model.tags.get(f"{prefix}{CLASSES_SHA256}")
    if found is None and digest:
        same = (
            version.tags
            for version in reversed(model.versions)
            if version.tags.get(CLASSES_SHA256) == digest
        )
        found = next(filter(None, map(read_classes, same)), None)
    return found


def record_classes(
    client: MlflowClient, name: str, classes: Sequence[str], prefix: str = ""
) -> None:
    """Set the class list that a registered model has, or, by the prefix of its tags, one of its
    stages.
    """
    for tag, value in class_tags(classes, prefix).items():
        retry_on_conflict(partial(client.set_registered_model_tag, name, tag, value))


def stage_prefix(stage: str) -> str:
    """Return the beginning of a registered model's tags with the classes that were promoted to a
    stage.
    """
    return f"{stage}."


def check_change(
    name: ModelName, recorded: Sequence[str], new: Sequence[str], *, consented: bool
) -> ClassChange:
    """Return the difference between the classes of a registered model and those of its next
    version.

    Raises:
        UserError: fewer than half of the recorded classes remain, or there is a difference and no
            consent.
    """
    change = compare_classes(recorded, new)
    if change.shared < LEAST_SHARED:
        remain = len(set(recorded)) - len(change.removed)
        raise UserError(
            f"The dataset {name.dataset} cannot be a new version of {name.registered}: it has "
            f"{remain} of the {len(set(recorded))} classes of that model "
            f"({name_some(recorded)}), and the classes {name_some(new)}. If it is another "
            "dataset in a folder of the same name, give it a name of its own with "
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
    """Return class names as a message shows them: the first ones and how many there are besides."""
    rest = len(classes) - SHOWN
    return ", ".join(classes[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _spell(classes: Iterable[str]) -> str:
    return json.dumps(list(classes), ensure_ascii=False, separators=(",", ":"))
