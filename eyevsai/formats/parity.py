"""Whether an export says what its model says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from eyevsai.core.progress import track
from eyevsai.evaluation.metrics import Labels, Probabilities
from eyevsai.formats.base import Pixels, Runtime
from eyevsai.models.learner import Learner

BATCHES = (1, 7, 32)


@dataclass(frozen=True)
class ReferenceData:
    """A model and images of its test split, by which its exports are held against it; it is asked
    once for all.
    """

    learner: Learner
    names: Sequence[str]
    # N,s,s,3 with s the short side after resizing: a graph resizes these to themselves
    resized: Pixels
    # the same images as they were decoded, one after another
    raw: Callable[[], Iterable[npt.NDArray[np.uint8]]]
    # the whole test split, resized, a batch after another
    test: Callable[[], Iterable[tuple[Pixels, Labels]]]

    @cached_property
    def expected(self) -> Probabilities:
        """What the model says of `resized`."""
        return self.learner.predict_proba(self.resized)

    @cached_property
    def raw_expected(self) -> Probabilities:
        """What it says of `raw`."""
        return np.concatenate([self.learner.predict_proba([image]) for image in self.raw()])

    @cached_property
    def answers(self) -> npt.NDArray[np.intp]:
        """The class that it gives to each image of `test`."""
        return np.concatenate(
            [self.learner.predict_proba(images).argmax(1) for images, _ in self.test()]
        )


@dataclass(frozen=True)
class ParityResult:
    """What was measured of an export, and why it is refused, if it is."""

    metrics: dict[str, float]
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bounds:
    """How far two rows of probabilities may lie apart: most of them, and all; and how many agree on
    the class.
    """

    most: float
    every: float
    share: float = 0.99
    agreement: float = 1.0


class ParityCheck(ABC):
    """Judges an export."""

    @abstractmethod
    def check(self, runtime: Runtime, reference: ReferenceData) -> ParityResult:
        """Figures and failures of the export that `runtime` opened."""


class ExactParityCheck(ParityCheck):
    """An export has to give the model's probabilities, in batches of any size.

    `tolerance` is for the same resized pixels. A model that decides by steps, as trees do, may fall
    on another side of one for few images. From raw images, resizing is the export's own, and a
    pixel may differ by one level.
    """

    RAW: ClassVar[Bounds] = Bounds(most=1e-3, every=1e-2, agreement=0.999)
    STEPS: ClassVar[float] = 0.02

    def __init__(self, tolerance: float, *, piecewise_constant: bool) -> None:
        self.resized = Bounds(
            tolerance,
            self.STEPS if piecewise_constant else tolerance,
            share=0.99 if piecewise_constant else 1.0,
        )

    def check(self, runtime: Runtime, reference: ReferenceData) -> ParityResult:
        """Compare probabilities in batches of each size, and those of raw images."""
        result = ParityResult({"images": len(reference.names)})
        for batch in BATCHES:
            found = np.concatenate(list(_predict(runtime, reference.resized, batch)))
            compared = (
                f"From the same resized pixels, in batches of {batch}",
                "",
                reference.expected,
                found,
            )
            _compare(result, reference, compared, self.resized)
            if result.failures:  # of another size they would say the same again
                break
        _compare(
            result,
            reference,
            ("From raw images", "raw_", reference.raw_expected, _predict_raw(runtime, reference)),
            self.RAW,
        )
        return result


class AccuracyParityCheck(ParityCheck):
    """An export that computes in fewer bits has to be right about as often as the model, and to
    agree with it.

    So it does from raw images, which such a format may resize in fewer bits, too.
    """

    # of agreement: few of 200 images may flip, and not a tenth of them
    RAW_LOSS: ClassVar[float] = 0.05

    def __init__(self, points: float, agreement: float) -> None:
        self.points, self.agreement = points, agreement

    def check(self, runtime: Runtime, reference: ReferenceData) -> ParityResult:
        """Compare classes and accuracy: a quantized export may differ in the rest."""
        said = [
            (runtime.predict_proba(images).argmax(1), labels) for images, labels in reference.test()
        ]
        found, labels = (np.concatenate(part) for part in zip(*said, strict=True))
        expected = reference.answers
        raw = _predict_raw(runtime, reference).argmax(1) == reference.raw_expected.argmax(1)
        before, after = (float((answers == labels).mean()) for answers in (expected, found))
        figures = {
            "images": len(labels),
            "model_accuracy": before,
            "accuracy": after,
            "top1_agreement": float((expected == found).mean()),
            "raw_images": len(raw),
            "raw_top1_agreement": float(raw.mean()),
        }
        failures = []
        if 100 * (before - after) > self.points + 1e-9:
            failures.append(
                f"The export is right on {after:.2%} of {len(found)} test images, the model on "
                f"{before:.2%}: more than {self.points:g} points fewer."
            )
        if figures["top1_agreement"] < self.agreement:
            failures.append(
                f"The export names the model's class for {figures['top1_agreement']:.2%} of "
                f"{len(found)} test images; {self.agreement:.0%} are wanted."
            )
        wanted = max(self.agreement, figures["top1_agreement"] - self.RAW_LOSS)
        if figures["raw_top1_agreement"] < wanted:
            failures.append(
                f"From raw images the export names the model's class for {raw.mean():.2%} of "
                f"{len(raw)}; {wanted:.1%} are wanted."
            )
        return ParityResult(figures, failures)


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
    """Adds failures of two tables of probabilities and their figures, of which the worst stays;
    prefix their names.
    """
    title, prefix, expected, found = compared
    if found.shape != expected.shape:
        result.failures.append(
            f"{title}, the export answers with a table of {found.shape}, the model of "
            f"{expected.shape}."
        )
        return
    apart = _abs_diff(expected, found)
    largest = apart.max(1)
    within = float((largest <= bounds.most).mean())
    agreement = float(_agreement(expected, found, bounds.most).mean())
    measured = (
        (max, "max_difference", float(largest.max())),
        (min, "share_within", within),
        (min, "top1_agreement", agreement),
    )
    for worse, figure, value in measured:
        known = result.metrics.get(f"{prefix}{figure}", value)
        result.metrics[f"{prefix}{figure}"] = worse(known, value)
    row = int(largest.argmax())
    column = int(apart[row].argmax())
    where = (
        f"; {reference.names[row]} parts most: {reference.learner.classes[column]} is "
        f"{expected[row, column]:.6f} in the model and {found[row, column]:.6f} in the export."
    )
    if largest.max() > bounds.every:
        result.failures.append(
            f"{title}, probabilities lie up to {largest.max():.2g} apart ({bounds.every:g} is "
            f"allowed){where}"
        )
    elif within < bounds.share:
        result.failures.append(
            f"{title}, {within:.1%} of the images are within {bounds.most:g} "
            f"({bounds.share:.0%} are wanted){where}"
        )
    if agreement < bounds.agreement:
        result.failures.append(
            f"{title}, {agreement:.2%} of the images are given the model's class "
            f"({bounds.agreement:.1%} are wanted){where}"
        )


def _abs_diff(expected: Probabilities, found: Probabilities) -> npt.NDArray[np.float64]:
    """N,C: how far two tables lie apart; infinitely where there is no number."""
    return np.nan_to_num(np.abs(found.astype(np.float64) - expected), nan=np.inf)


def _agreement(expected: Probabilities, found: Probabilities, tie: float) -> npt.NDArray[np.bool_]:
    """N: whether the export's class is the model's, or one that the model holds for as probable."""
    chosen = found.argmax(1)
    agree: npt.NDArray[np.bool_] = (
        expected.max(1) - expected[np.arange(len(expected)), chosen] <= tie
    )
    return agree
