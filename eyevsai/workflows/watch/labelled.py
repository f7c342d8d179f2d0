"""Labelled images of a model: those that the inference log has a label and a stored image of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eyevsai.inference_log.images import ImageFolder
from eyevsai.inference_log.labels import LabelReader


@dataclass(frozen=True)
class LabelledImage:
    """Stored image with the label that counts.

    `position` is that of its first label in the order of arrival.
    """

    sha256: str
    label: str
    position: int
    path: Path


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images, each once, and the numbers of labels that cannot be used by reason.

    `newest` is the position of the newest label of all, 0 without labels.
    """

    images: tuple[LabelledImage, ...]
    unused: dict[str, int]
    newest: int = 0

    def count_new(self, after: int) -> int:
        """Return the number of images whose first label arrived after a position."""
        return sum(each.position > after for each in self.images)


def read_labelled(
    reader: LabelReader, folder: ImageFolder | None, model: str, classes: Collection[str]
) -> LabelledImages:
    """Return the labelled images of a model, of all versions, sorted by their digest.

    A label is not used if persons disagree about it (`disputed`), if answers for the same image
    have different labels (`disputed`), if it is no class of the model (`unknown_class`), or if the
    image is not stored (`no_image`).

    Args:
        reader: labels of the log.
        folder: stored images; None if there are none.
        model: name of the registered model.
        classes: classes of the version in Production.
    """
    merged, unused, newest = dict[bytes, _Merged](), Counter[str](), 0
    for answer in reader.resolved(model):
        newest = max(newest, *(each.seq for each in answer.labels))
        label = answer.resolution.label
        if label is None:
            unused["disputed"] += 1
        elif label not in classes:
            unused["unknown_class"] += 1
        elif answer.sha256 is None or folder is None:
            unused["no_image"] += 1
        else:
            first = min(each.seq for each in answer.labels)
            before = merged.get(answer.sha256)
            merged[answer.sha256] = _merge(before, label, first)
    images = list[LabelledImage]()
    for digest, each in sorted(merged.items()):
        path = folder.path(digest) if folder is not None else Path()
        if each.label is None:
            unused["disputed"] += each.answers
        elif not path.is_file():
            unused["no_image"] += each.answers
        else:
            images.append(LabelledImage(digest.hex(), each.label, each.position, path))
    return LabelledImages(tuple(images), dict(unused), newest)


class _Merged(NamedTuple):
    """Labels of all answers for one image; `label` is None if they differ."""

    label: str | None
    position: int
    answers: int


def _merge(before: _Merged | None, label: str, position: int) -> _Merged:
    if before is None:
        return _Merged(label, position, 1)
    same = label if before.label == label else None
    return _Merged(same, min(before.position, position), before.answers + 1)
