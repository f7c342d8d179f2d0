"""Selection of newly labelled images for training, validation and the test split `recent`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

TRAIN, VALID, TEST, RECENT = "train", "valid", "test", "recent"


class Unused(StrEnum):
    """Reason for which a labelled image is not used."""

    DUPLICATE = "duplicate"  # its pixels are in the training data or among the new images already
    LEAK = "leak"  # it resembles an image of the valid or test split
    DISPUTED = "disputed"  # images that resemble each other have different classes


@dataclass(frozen=True)
class NewImage:
    """Newly labelled image.

    `group` is the same for all images, new or not, that resemble each other; `pixels` for images
    with equal pixels.
    """

    name: str
    label: str
    group: int
    pixels: str


@dataclass(frozen=True)
class Selection:
    """Split of each image that is used, and the reason for each one that is not, by name."""

    splits: Mapping[str, str]
    unused: Mapping[str, Unused]

    def counts(self) -> dict[str, int]:
        """Return the number of images in each split and with each reason, sorted by name."""
        values = [*self.splits.values(), *map(str, self.unused.values())]
        return dict(sorted(Counter(values).items()))


@dataclass(frozen=True)
class BaseGroups:
    """Splits and classes of the training data's images by group, and their pixels."""

    splits: Mapping[int, Collection[str]]
    labels: Mapping[int, Collection[str]]
    pixels: Collection[str]


def select_images(
    images: Iterable[NewImage], base: BaseGroups, recent_fraction: float, valid_fraction: float
) -> Selection:
    """Return the split of each new image.

    Groups are never divided. A group that resembles a valid or test image is a leak, and one that
    resembles a training image is trained on. Others are assigned by a hash of their pixels, so that
    an image of `recent` stays there in all later retrainings: a group is in `recent` if one of its
    images is, which only an added image undoes that resembles a training image, too.

    Args:
        images: newly labelled images, each name once.
        base: images that the version in Production was trained and evaluated on.
        recent_fraction: share of the groups that become the test split `recent`.
        valid_fraction: share of the other groups that become valid.
    """
    groups: dict[int, list[NewImage]] = {}
    for image in sorted(images, key=lambda each: each.name):
        groups.setdefault(image.group, []).append(image)
    splits, unused = dict[str, str](), dict[str, Unused]()
    for group, members in groups.items():
        kept = _drop_copies(members, base.pixels, unused)
        if not kept:
            continue
        labels = {each.label for each in kept} | set(base.labels.get(group, ()))
        result = _assign(kept, set(base.splits.get(group, ())), recent_fraction, valid_fraction)
        if len(labels) > 1:
            result = Unused.DISPUTED
        for image in kept:
            if isinstance(result, Unused):
                unused[image.name] = result
            else:
                splits[image.name] = result
    return Selection(splits, unused)


def choose_valid_fraction(new: int, old: int, fraction: float) -> float:
    """Return the share of the new images that becomes valid: none while they are few.

    A few images among many others in valid changed neither the regularisation of a head nor its
    temperature; in training, each one counts: docs/decisions/048-retraining.md.

    Args:
        new: number of images from the traffic.
        old: number of other training images.
        fraction: share of valid in the training of the version in Production.
    """
    return fraction if new >= old else 0.0


def _drop_copies(
    members: Sequence[NewImage], base: Collection[str], unused: dict[str, Unused]
) -> list[NewImage]:
    """Return the images without repeated pixels and class; add the others to `unused`."""
    seen, kept = set[tuple[str, str]](), list[NewImage]()
    for image in members:
        if image.pixels in base or (image.pixels, image.label) in seen:
            unused[image.name] = Unused.DUPLICATE
        else:
            seen.add((image.pixels, image.label))
            kept.append(image)
    return kept


def _assign(
    members: Sequence[NewImage], base: set[str], recent_fraction: float, valid_fraction: float
) -> str | Unused:
    """Return the split of a group, or the reason for which it is not used."""
    if base & {VALID, TEST}:
        return Unused.LEAK
    if TRAIN in base:
        return TRAIN
    if any(_position(RECENT, each.pixels) < recent_fraction for each in members):
        return RECENT
    first = min(each.pixels for each in members)
    return VALID if _position(VALID, first) < valid_fraction else TRAIN


def _position(purpose: str, text: str) -> float:
    """Return a number in [0, 1) that is uniform over texts, and independent for each purpose."""
    digest = hashlib.sha256(f"{purpose}/{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
