"""Predictions and image statistics of image files, and their comparison by windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.data.decode import ImageDecodeError, decode
from eyevsai.data.parallel import parallel_map
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.evaluation.comparison import WindowComparer, WindowComparison
from eyevsai.evaluation.drift import PREDICTED_AS, Drift
from eyevsai.evaluation.image_statistics import Statistics, measure_image
from eyevsai.evaluation.metrics import Probabilities
from eyevsai.evaluation.monitor_settings import MIN_IMAGES, DriftSettings
from eyevsai.evaluation.reference import Reference
from eyevsai.evaluation.windows import split_windows
from eyevsai.serving.classifier import Classifier


@dataclass(frozen=True)
class UnreadableImage:
    """Image file that cannot be decoded, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class PredictedImages:
    """Predictions for N image files; files that cannot be decoded are separate."""

    paths: list[Path]
    probabilities: Probabilities  # N,C
    statistics: Statistics  # N,6
    unreadable: list[UnreadableImage]


@dataclass(frozen=True)
class WindowResult:
    """Comparison of one window of a folder with the reference."""

    folder: str
    paths: list[Path]
    comparison: WindowComparison
    # images with predicted class and its probability, those that differ most first
    most_drifted: list[tuple[Path, str, float]]

    @property
    def drift(self) -> Drift:
        """Differences of the predictions."""
        return self.comparison.drift

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        names = {"folder": self.folder, "first": self.paths[0].name, "last": self.paths[-1].name}
        return names | self.comparison.to_json()


@dataclass(frozen=True)
class _Reader:
    """Function from paths to squares with their statistics, or the error of a damaged file."""

    preprocessing: Preprocessing

    def __call__(
        self, paths: Sequence[Path]
    ) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]] | str]:
        return [self._read(path) for path in paths]

    def _read(self, path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]] | str:
        try:
            image = decode(path, self.preprocessing.depth)
        except ImageDecodeError as error:
            return error.reason
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        square = self.preprocessing.resize_to_square(image)
        return square, measure_image(square, image.shape[1] / image.shape[0])


def predict_files(classifier: Classifier, paths: Sequence[Path], folder: str) -> PredictedImages:
    """Return the predictions and image statistics of files.

    Args:
        classifier: the model.
        paths: image files in the order of the stream.
        folder: their folder, for messages.

    Raises:
        UserError: fewer than `MIN_IMAGES` files can be decoded.
    """
    preprocessing = Preprocessing.from_json(classifier.metadata["preprocessing"])
    readable, unreadable = list[Path](), list[UnreadableImage]()
    rows, statistics = list[list[float]](), list[npt.NDArray[np.float32]]()
    remaining = iter(paths)
    for chunk in parallel_map(_Reader(preprocessing), paths, "Predicting"):
        squares = []
        for result, path in zip(chunk, remaining, strict=False):
            if isinstance(result, str):
                unreadable.append(UnreadableImage(path, result))
                continue
            readable.append(path)
            squares.append(result[0])
            statistics.append(result[1])
        predictions = classifier.predict_batch(squares)
        rows += [list(each.probabilities.values()) for each in predictions]
    if len(readable) < MIN_IMAGES:
        damaged = f" and {len(unreadable)} that cannot be read" if unreadable else ""
        raise UserError(
            f"{folder} has {len(readable)} images{damaged}: drift cannot be detected with fewer "
            f"than {MIN_IMAGES}. Use more images; 200 are recommended."
        )
    return PredictedImages(
        readable, np.array(rows, dtype=np.float32), np.stack(statistics), unreadable
    )


def compare_windows(
    reference: Reference, images: PredictedImages, folder: str, settings: DriftSettings
) -> list[WindowResult]:
    """Compare each window of a folder with the reference.

    Args:
        reference: reference of the version that made the predictions.
        images: predictions for the images of the folder.
        folder: the folder.
        settings: size of the windows, and thresholds.
    """
    comparer = WindowComparer(reference, alpha=settings.alpha, min_distance=settings.min_distance)
    windows = split_windows(len(images.paths), settings.window or len(images.paths))
    return [_compare(comparer, images, part, folder) for part in windows]


def _compare(
    comparer: WindowComparer, images: PredictedImages, part: slice, folder: str
) -> WindowResult:
    """Return the comparison of the images in `part`."""
    paths, probabilities = images.paths[part], images.probabilities[part]
    comparison = comparer.compare(probabilities, images.statistics[part])
    labels, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    classes = comparer.reference.classes
    most_drifted = [
        (paths[index], classes[int(labels[index])], float(confidence[index]))
        for index in _rank_images(comparison.drift, probabilities)
    ]
    return WindowResult(folder, paths, comparison, most_drifted)


def _rank_images(drift: Drift, probabilities: Probabilities) -> list[int]:
    """Return the indices of the images, those with the most unusual values first.

    The values are those of the strongest difference: the confidence, or the probability of a class.
    If they are lower in the window on average, the images with the lowest come first.
    """
    strongest = drift.strongest
    if strongest is drift.confidence:
        values = probabilities.max(axis=1)
    else:
        names = [each.name for each in drift.columns]
        is_class = strongest is not drift.predictions
        name = strongest.name if is_class else strongest.name.removeprefix(PREDICTED_AS)
        values = probabilities[:, names.index(name)]
    is_higher = strongest.window_mean > strongest.reference_mean
    order: list[int] = np.argsort(-values if is_higher else values, kind="stable").tolist()
    return order
