"""Reference of a model version: the predictions on labelled images that a monitor compares with.

It has two files of about 1 MB together: a JSON card with the facts, and safetensors with the
arrays, whose SHA-256 is in the card.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError, read_error
from eyevsai.evaluation.estimation import Baseline, fit_baseline
from eyevsai.evaluation.image_statistics import STATISTICS, Statistics
from eyevsai.evaluation.metrics import Labels, Probabilities
from eyevsai.evaluation.monitor_settings import MIN_IMAGES
from eyevsai.evaluation.windows import check_probabilities

CARD, ARRAYS = "reference.json", "reference.safetensors"
FORMAT = 1
MAX_BYTES = 1_000_000  # of both files
_CARD_BYTES = 50_000  # reserved for the card
TEST, VALID = "test", "valid"


@dataclass(frozen=True)
class Reference:
    """Predictions of a version for N labelled images, and facts about all images of their split.

    `probabilities` are N,C after the temperature, `labels` N class numbers, `statistics` N,6. The N
    images are a sample of the split, which has `counts` images of each class. The model did not use
    images of the split `test` in any way; those of `valid` chose the best epoch and the
    temperature, so that a reference of them is provisional. `weights` is the SHA-256 of the weights
    that made the predictions.
    """

    classes: tuple[str, ...]
    split: str
    counts: tuple[int, ...]
    temperature: float
    weights: str
    baseline: Baseline
    probabilities: npt.NDArray[np.float16]
    labels: Labels
    statistics: Statistics

    @property
    def is_provisional(self) -> bool:
        """True if the images chose the best epoch and the temperature."""
        return self.split != TEST

    @property
    def images(self) -> int:
        """Number of images in the split."""
        return sum(self.counts)

    @property
    def prior(self) -> tuple[float, ...]:
        """Class shares of the split."""
        return tuple(count / self.images for count in self.counts)

    def check_model(self, classes: tuple[str, ...], weights: str, title: str) -> None:
        """Raise UserError unless the reference is of a model with these classes and weights.

        Args:
            classes: class names of the model.
            weights: SHA-256 of the model's weights.
            title: title of the model, for messages.
        """
        if self.weights == weights and self.classes == tuple(classes):
            return
        difference = "other classes" if self.classes != tuple(classes) else "other weights"
        raise UserError(
            f"The drift reference of {title} is that of another version: it has {difference}. "
            f"Create it with: eyevsai evaluate {title}"
        )


def choose_rows(labels: Labels, num_classes: int, seed: int) -> npt.NDArray[np.intp]:
    """Return the indices of the images to store: all, or a sample of at most `MAX_BYTES`.

    Args:
        labels: N class numbers.
        num_classes: number of classes.
        seed: seed of the sample.
    """
    bytes_per_image = 2 * num_classes + 4 * len(STATISTICS) + 4
    count = max(MIN_IMAGES, (MAX_BYTES - _CARD_BYTES) // bytes_per_image)
    return sample_by_class(labels, count, seed)


def make_reference(
    classes: tuple[str, ...],
    probabilities: Probabilities,
    labels: Labels,
    rows: npt.NDArray[np.intp],
    statistics: Statistics,
    *,
    split: str,
    temperature: float,
    weights: str = "",
) -> Reference:
    """Return the reference of a version from its predictions on one split.

    The baseline and the counts are those of all images of the split.

    Args:
        classes: names of the C classes.
        probabilities: N,C after the temperature.
        labels: N class numbers.
        rows: indices of the images to store, as `choose_rows` returns them.
        statistics: image statistics of these images.
        split: `TEST` or `VALID`.
        temperature: temperature of the probabilities.
        weights: SHA-256 of the model's weights; empty if they are not stored yet.

    Raises:
        UserError: there are fewer than `MIN_IMAGES` images, or values that are no probabilities.
    """
    values = check_probabilities(probabilities, len(classes), f"the {split} split")
    return Reference(
        classes=tuple(classes),
        split=split,
        counts=tuple(np.bincount(labels, minlength=len(classes)).tolist()),
        temperature=temperature,
        weights=weights,
        baseline=fit_baseline(probabilities, labels),
        probabilities=values[rows],
        labels=labels[rows],
        statistics=statistics.astype(np.float32),
    )


def sample_by_class(labels: Labels, count: int, seed: int) -> npt.NDArray[np.intp]:
    """Return the sorted indices of at most `count` images, with the class shares of all.

    Images are ranked randomly within their class; those with the smallest ranks relative to the
    size of their class are taken, so that each class keeps one image if `count` allows.

    Args:
        labels: N class numbers.
        count: number of indices; all are returned if there are fewer images.
        seed: seed of the ranks.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    sizes = np.bincount(labels)
    relative_ranks = np.empty(len(labels))
    for number in np.unique(labels):
        members = order[labels[order] == number]
        relative_ranks[members] = np.arange(len(members)) / sizes[number]
    return np.sort(order[np.argsort(relative_ranks[order], kind="stable")[:count]])


def write_reference(reference: Reference, folder: Path) -> None:
    """Write `CARD` and `ARRAYS` into `folder`, creating it if it is missing."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    arrays = save(
        {
            "probabilities": reference.probabilities,
            "labels": reference.labels.astype(np.int32),
            "statistics": reference.statistics,
        }
    )
    card = {
        "format": FORMAT,
        "split": reference.split,
        "is_provisional": reference.is_provisional,
        "images": reference.images,
        "stored_images": len(reference.labels),
        "temperature": reference.temperature,
        "weights_sha256": reference.weights,
        "classes": reference.classes,
        "counts": reference.counts,
        "prior": [round(share, 6) for share in reference.prior],
        "baseline": asdict(reference.baseline),
        "statistics": list(STATISTICS),
        "sha256": hashlib.sha256(arrays).hexdigest(),
    }
    (folder / ARRAYS).write_bytes(arrays)
    text = json.dumps(card, indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def read_reference(folder: Path) -> Reference:
    """Return the reference that `write_reference` wrote into `folder`.

    Raises:
        UserError: the files are missing, damaged, or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        content = (folder / ARRAYS).read_bytes()
    except OSError as error:
        raise read_error(error.filename, error, "Create it with eyevsai evaluate.") from error
    except ValueError as error:
        raise _damaged(folder, f"{CARD} is no JSON") from error
    try:
        if card["format"] > FORMAT:
            raise UserError(
                f"{folder / CARD} was written by a newer eyevsai (format {card['format']}). "
                "Upgrade eyevsai."
            )
        if hashlib.sha256(content).hexdigest() != card["sha256"]:
            raise _damaged(folder, f"the SHA-256 of {ARRAYS} does not match")
        return _parse(card, load(content))
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise _damaged(folder, str(error)) from error


def _parse(card: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Reference:
    """Return the reference of a card and its arrays; raise ValueError if they do not match."""
    classes, labels = tuple(card["classes"]), arrays["labels"].astype(np.int64)
    expected = {
        "probabilities": (len(labels), len(classes)),
        "statistics": (len(labels), len(STATISTICS)),
    }
    if card["statistics"] != list(STATISTICS):
        raise ValueError(f"it has the image statistics {card['statistics']}")
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} have the shape {arrays[name].shape}, not {shape}")
    counts = tuple(map(int, card["counts"]))
    if ((labels < 0) | (labels >= len(classes))).any() or len(counts) != len(classes):
        raise ValueError(f"labels or counts do not fit {len(classes)} classes")
    if (np.bincount(labels, minlength=len(classes)) > counts).any():
        raise ValueError("it has more images of a class than its split")
    return Reference(
        classes=classes,
        split=str(card["split"]),
        counts=counts,
        temperature=float(card["temperature"]),
        weights=str(card["weights_sha256"]),
        baseline=_parse_baseline(card["baseline"]),
        probabilities=arrays["probabilities"],
        labels=labels,
        statistics=arrays["statistics"],
    )


def _parse_baseline(values: Mapping[str, Any]) -> Baseline:
    numbers: dict[str, Any] = {name: float(value) for name, value in values.items()}
    return Baseline(**numbers | {"images": int(values["images"])})


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f"The drift reference in {folder} is damaged: {reason}. Create it again with eyevsai "
        "evaluate."
    )
