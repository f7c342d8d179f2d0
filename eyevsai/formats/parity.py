"""Parity checks, which compare the predictions of an export with those of its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from eyevsai.core.progress import track
from eyevsai.evaluation.metrics import Labels, Probabilities
from eyevsai.formats.base import Pixels, Runtime
from eyevsai.models.learner import Learner

BATCH_SIZES = (1, 7, 32)
RAW_BATCH = 16  # decoded images in memory at a time
RAW_PREFIX = "raw_"  # of the metrics of raw images
# words for a metric and its value
METRICS = {
    "images": "{:.0f} images",
    "max_difference": "probabilities differ by at most {:.2g}",
    "share_within": "{:.2%} within the tolerance",
    "top1_agreement": "{:.2%} with the model's class",
    "model_accuracy": "accuracy of the model {:.4f}",
    "accuracy": "of the export {:.4f}",
}


@dataclass(frozen=True)
class ReferenceData:
    """Model, images of its test split, and the model's predictions for them.

    The predictions are computed on first use and shared by the checks of all formats.
    """

    learner: Learner
    names: Sequence[str]
    # N,s,s,3 where s is the short side after resizing: a graph's resize does not change these
    resized: Pixels
    # the same images as decoded, one at a time
    raw: Callable[[], Iterable[npt.NDArray[np.uint8]]]
    # resized images and labels of the whole test split, in batches
    test: Callable[[], Iterable[tuple[Pixels, Labels]]]

    @cached_property
    def expected(self) -> Probabilities:
        """Probabilities (N,C) of the model for `resized`."""
        return self.learner.predict_proba(self.resized)

    @cached_property
    def raw_expected(self) -> Probabilities:
        """Probabilities (N,C) of the model for `raw`."""
        images = iter(self.raw())
        batches = iter(lambda: list(islice(images, RAW_BATCH)), [])
        return np.concatenate([self.learner.predict_proba(batch) for batch in batches])

    @cached_property
    def test_expected(self) -> npt.NDArray[np.intp]:
        """Indices (N) of the classes that the model predicts for `test`."""
        return np.concatenate(
            [self.learner.predict_proba(images).argmax(1) for images, _ in self.test()]
        )


@dataclass(frozen=True)
class ParityResult:
    """Metrics of a parity check, and a message for each failure; without one, the check passed."""

    metrics: dict[str, float]
    failures: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Return the metrics in words, first those of resized images, then those of raw images."""
        groups = {
            "resized": [name for name in self.metrics if not name.startswith(RAW_PREFIX)],
            "raw": [name for name in self.metrics if name.startswith(RAW_PREFIX)],
        }
        return "; ".join(
            f"{title}: {', '.join(_describe_metric(name, self.metrics[name]) for name in names)}"
            for title, names in groups.items()
            if names
        )


@dataclass(frozen=True)
class Bounds:
    """Allowed differences between the probabilities of an export and of its model."""

    typical: float  # maximum difference for the share `min_share` of the images
    largest: float  # maximum difference for all images
    min_share: float = 0.99
    min_agreement: float = 1.0  # required share of images with the model's class


def _describe_metric(name: str, value: float) -> str:
    return METRICS[name.removeprefix(RAW_PREFIX)].format(value)


class ParityCheck(ABC):
    """Comparison of an export with its model."""

    @abstractmethod
    def check(self, runtime: Runtime, reference: ReferenceData) -> ParityResult:
        """Return the metrics and failures of an opened export."""


class ExactParityCheck(ParityCheck):
    """Check that an export returns the model's probabilities, in batches of any size.

    `tolerance` is the maximum difference for the same resized pixels. A piecewise constant model,
    such as an ensemble of trees, may exceed it for few images, by crossing a step. For raw images,
    the bounds are wider, because the export resizes them itself and a pixel may differ by one
    level.
    """

    RAW: ClassVar[Bounds] = Bounds(typical=1e-3, largest=1e-2, min_agreement=0.999)
    STEP: ClassVar[float] = 0.02

    def __init__(self, tolerance: float, *, piecewise_constant: bool) -> None:
        self.resized = Bounds(
            tolerance,
            self.STEP if piecewise_constant else tolerance,
            min_share=0.99 if piecewise_constant else 1.0,
        )

    def check(self, runtime: Runtime, reference: ReferenceData) -> ParityResult:
        """Compare the probabilities of resized images for each batch size, and of raw images."""
        result = ParityResult({"images": len(reference.names)})
        for batch in BATCH_SIZES:
            actual = np.concatenate(list(_predict(runtime, reference.resized, batch)))
            compared = (
                f"From the same resized pixels, in batches of {batch}",
                "",
                reference.expected,
                actual,
            )
            _compare(result, reference, compared, self.resized)
            if result.failures:  # other batch sizes would repeat the failures
                break
        _compare(
            result,
            reference,
            (
                "From raw images",
                RAW_PREFIX,
                reference.raw_expected,
                _predict_raw(runtime, reference),
            ),
            self.RAW,
        )
        return result


class AccuracyParityCheck(ParityCheck):
    """Check that an export with reduced precision keeps the accuracy and the predicted classes.

    The predicted classes are also compared for raw images, which such a format may resize with
    reduced precision, too.
    """

    # of the agreement for raw images: some of 200 images may change their class, but not a tenth
    RAW_LOSS: ClassVar[float] = 0.05

    def __init__(self, max_accuracy_loss: float, min_agreement: float) -> None:
        """Set the limits of the check.

        Args:
            max_accuracy_loss: allowed loss of test accuracy, in percentage points.
            min_agreement: required share of test images with the model's class.
        """
        self.max_accuracy_loss, self.min_agreement = max_accuracy_loss, min_agreement

    def check(self, runtime: Runtime, reference: ReferenceData) -> ParityResult:
        """Compare the accuracy and the predicted classes; probabilities may differ."""
        batches = [
            (runtime.predict_proba(images).argmax(1), labels) for images, labels in reference.test()
        ]
        actual, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        expected = reference.test_expected
        raw = _predict_raw(runtime, reference).argmax(1) == reference.raw_expected.argmax(1)
        before, after = (float((classes == labels).mean()) for classes in (expected, actual))
        metrics = {
            "images": len(labels),
            "model_accuracy": before,
            "accuracy": after,
            "top1_agreement": float((expected == actual).mean()),
            "raw_images": len(raw),
            "raw_top1_agreement": float(raw.mean()),
        }
        failures = []
        if 100 * (before - after) > self.max_accuracy_loss + 1e-9:
            failures.append(
                f"The accuracy of the export on {len(actual)} test images is {after:.2%}, that of "
                f"the model {before:.2%}: a loss of more than {self.max_accuracy_loss:g} points."
            )
        if metrics["top1_agreement"] < self.min_agreement:
            failures.append(
                f"The export predicts the model's class for {metrics['top1_agreement']:.2%} of "
                f"{len(actual)} test images; {self.min_agreement:.0%} are required."
            )
        min_agreement = max(self.min_agreement, metrics["top1_agreement"] - self.RAW_LOSS)
        if metrics["raw_top1_agreement"] < min_agreement:
            failures.append(
                f"From raw images, the export predicts the model's class for {raw.mean():.2%} of "
                f"{len(raw)}; {min_agreement:.1%} are required."
            )
        return ParityResult(metrics, failures)


def _predict(runtime: Runtime, images: Pixels, batch: int) -> Iterator[Probabilities]:
    starts = range(0, len(images), batch)
    for start in track(starts, f"Comparing in batches of {batch}", total=len(images), unit=batch):
        yield runtime.predict_proba(images[start : start + batch])


def _predict_raw(runtime: Runtime, reference: ReferenceData) -> Probabilities:
    images = track(reference.raw(), "Comparing raw images", total=len(reference.names))
    return np.concatenate([runtime.predict_proba(image[None]) for image in images])


def _compare(
    result: ParityResult,
    reference: ReferenceData,
    compared: tuple[str, str, Probabilities, Probabilities],
    bounds: Bounds,
) -> None:
    """Compare probabilities, and add failures and the worst value of each metric to `result`.

    Args:
        result: result of the check so far.
        reference: names of the images and classes, for messages.
        compared: title for messages, prefix of the metrics, and the probabilities (N,C) of the
            model and of the export.
        bounds: allowed differences.
    """
    title, prefix, expected, actual = compared
    if actual.shape != expected.shape:
        result.failures.append(
            f"{title}, the export returns probabilities of shape {actual.shape}, the model of "
            f"shape {expected.shape}."
        )
        return
    largest = _abs_diff(expected, actual).max(1)
    share_within = float((largest <= bounds.typical).mean())
    agreement = float(_agreement(expected, actual, bounds.typical).mean())
    measured = (
        (max, "max_difference", float(largest.max())),
        (min, "share_within", share_within),
        (min, "top1_agreement", agreement),
    )
    for worse, metric, value in measured:
        previous = result.metrics.get(f"{prefix}{metric}", value)
        result.metrics[f"{prefix}{metric}"] = worse(previous, value)
    worst_image = _describe_worst_image(reference, expected, actual)
    if largest.max() > bounds.largest:
        result.failures.append(
            f"{title}, probabilities differ by up to {largest.max():.2g} ({bounds.largest:g} is "
            f"allowed){worst_image}"
        )
    elif share_within < bounds.min_share:
        result.failures.append(
            f"{title}, {share_within:.1%} of the images differ by at most {bounds.typical:g} "
            f"({bounds.min_share:.0%} are required){worst_image}"
        )
    if agreement < bounds.min_agreement:
        result.failures.append(
            f"{title}, {agreement:.2%} of the images have the model's class "
            f"({bounds.min_agreement:.1%} are required){worst_image}"
        )


def _describe_worst_image(
    reference: ReferenceData, expected: Probabilities, actual: Probabilities
) -> str:
    """Return the end of a message: the image and class whose probabilities differ most."""
    differences = _abs_diff(expected, actual)
    row, column = map(int, np.unravel_index(differences.argmax(), differences.shape))
    return (
        f"; {reference.names[row]} differs most: {reference.learner.classes[column]} is "
        f"{expected[row, column]:.6f} in the model and {actual[row, column]:.6f} in the export."
    )


def _abs_diff(expected: Probabilities, actual: Probabilities) -> npt.NDArray[np.float64]:
    """Return the absolute differences (N,C) of probabilities, with infinity in place of NaN."""
    return np.nan_to_num(np.abs(actual.astype(np.float64) - expected), nan=np.inf)


def _agreement(expected: Probabilities, actual: Probabilities, tie: float) -> npt.NDArray[np.bool_]:
    """Return a mask (N): True where the export predicts the model's class.

    A class that the model considers less probable by at most `tie` counts, too.
    """
    chosen = actual.argmax(1)
    agree: npt.NDArray[np.bool_] = (
        expected.max(1) - expected[np.arange(len(expected)), chosen] <= tie
    )
    return agree
