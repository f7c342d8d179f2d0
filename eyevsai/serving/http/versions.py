"""Loaded versions of a registered model: prediction, probe, and the table of those in use."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError, first_line
from eyevsai.data.decode import Depth
from eyevsai.evaluation.image_statistics import measure_image
from eyevsai.serving.classifier import Classifier
from eyevsai.serving.http.answers import PRODUCTION, ImageError, ModelError, Outcome, Row
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.images import decode_image

Pixels = npt.NDArray[np.uint8]  # H,W,3
Result = Outcome | ImageError | ModelError
LEARNER = "learner"  # format of a version without an ONNX export
REASONS = {413: "pixels", 503: "busy"}  # of an image that was refused, by status
EXAMPLES = ("serving_input_example.json", "input_example.json")  # files of a model directory
PROBE_SHAPE = (64, 64, 3)  # of the probe image of a version without an example
SUM_TOLERANCE = 1e-2  # of the sum of the probabilities, which is 1
BATCH_SIZES = (1, 4, 16, 64)
LONG_S = 0.02  # of one image, from which a batch saves nothing, and would take long to measure
MEASURE_S, MIN_ROUNDS, MAX_ROUNDS = 0.04, 3, 50  # of the measurement of one batch size
MIN_GAIN = 0.9  # time per image of a larger batch, relative to that of a smaller one


class Reader(Protocol):
    """Decoder of the images that clients send; several threads use it at once."""

    def __call__(self, cell: Any, depth: Depth | None, /) -> Pixels:
        """Return an image as H,W,3 uint8 RGB.

        Args:
            cell: content of an image file, base64, nested lists, or an array.
            depth: value range of images with more than 8 bits.

        Raises:
            RequestError: the cell contains no image, or one that is too large.
            UserError: the cell contains no image.
        """


class LoadedVersion:
    """Version that is loaded and can predict. Several threads may use it at once.

    Args:
        name: name of the registered model.
        number: number of the version.
        classifier: the model.
        read: decoder of images.
        is_logged: measure the statistics and the digest of each image for the log.
        batch_size: number of images that are predicted at once, if so many wait.
    """

    def __init__(
        self,
        name: str,
        number: int,
        classifier: Classifier,
        read: Reader = decode_image,
        *,
        is_logged: bool = False,
        batch_size: int = 1,
    ) -> None:
        self.name, self.number, self.batch_size = name, number, batch_size
        self.classes = classifier.classes
        self.threshold = classifier.threshold
        self.format: str = classifier.metadata["format"] or LEARNER
        self._classifier, self.read, self._is_logged = classifier, read, is_logged

    @property
    def uri(self) -> str:
        """URI `models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.number}"

    def predict(self, image: Any) -> Outcome:
        """Return the result for an image.

        Raises:
            ImageError: the image cannot be decoded, or is too large.
            ModelError: the model raised an error, or returned no probabilities.
        """
        (outcome,) = self.predict_batch([image])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def predict_batch(self, images: Sequence[Any]) -> list[Result]:
        """Return the results for images, which are predicted at once, or their errors."""
        prepared = [self._prepare(image) for image in images]
        squares = [each.square for each in prepared if isinstance(each, _Prepared)]
        start = time.perf_counter()
        rows = iter(self._predict_squares(squares) if squares else ())
        model_s = (time.perf_counter() - start) / max(1, len(squares))
        return [
            self._to_result(image, each, next(rows), model_s)
            if isinstance(each, _Prepared)
            else each
            for image, each in zip(images, prepared, strict=True)
        ]

    def _prepare(self, image: Any) -> _Prepared | ImageError:
        start = time.perf_counter()
        try:
            pixels = self.read(image, self._classifier.depth)
        except RequestError as error:
            return ImageError(
                str(error),
                error.status,
                REASONS.get(error.status, "image"),
                retry_after=error.retry_after,
            )
        except UserError as error:
            return ImageError(str(error), 400, "image")
        middle = time.perf_counter()
        square = self._classifier.resize_to_square(pixels)
        height, width = pixels.shape[:2]
        return _Prepared(square, width, height, middle - start, time.perf_counter() - middle)

    def _predict_squares(self, squares: Sequence[Pixels]) -> Sequence[Row | ModelError]:
        try:
            rows = self._classifier.predict_squares(squares)
        except Exception as error:  # each runtime raises its own types
            failed = ModelError(f"{self.uri} failed: {first_line(error)}", 500, "model")
            return [failed] * len(squares)
        return [self._check(row) for row in rows]

    def _check(self, row: Row) -> Row | ModelError:
        """Return the probabilities, or an error: NaN and other invalid values are never sent."""
        if row.shape == (len(self.classes),) and abs(float(row.sum()) - 1) <= SUM_TOLERANCE:
            return row
        return ModelError(f"{self.uri} failed: it returned no probabilities.", 500, "model")

    def _to_result(
        self, image: Any, prepared: _Prepared, row: Row | ModelError, model_s: float
    ) -> Outcome | ModelError:
        if isinstance(row, ModelError):
            return row
        width, height = prepared.width, prepared.height
        model_s += prepared.resize_s
        if not self._is_logged:
            return Outcome(row, width, height, prepared.decode_s, model_s)
        digest = hashlib.sha256(image).digest() if isinstance(image, bytes) else None
        statistics = measure_image(prepared.square, width / height)
        return Outcome(row, width, height, prepared.decode_s, model_s, statistics, digest)


@dataclass(slots=True)
class _Prepared:
    """Image for the model, size of the original in pixels, and seconds of both steps."""

    square: Pixels
    width: int
    height: int
    decode_s: float
    resize_s: float


def probe(version: LoadedVersion, folder: Path) -> None:
    """Predict the example image of a version, whose model directory is `folder`.

    Raises:
        UserError: the version cannot predict.
    """
    try:
        version.predict(read_example(folder))
    except (ImageError, ModelError) as error:
        raise UserError(f"{version.uri} fails its probe: {error}") from error


def read_example(folder: Path) -> Any:
    """Return the image in the input example of a model directory; a black one if it has none."""
    for name in EXAMPLES:
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            table = content.get("dataframe_split", content)
            return base64.b64decode(table["data"][0][0], validate=True)
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
            continue
    return np.zeros(PROBE_SHAPE, np.uint8)


def measure_batch_size(version: LoadedVersion, image: Any) -> int:
    """Return the batch size with the lowest time per image, of `BATCH_SIZES`.

    A larger batch is used only if it takes 10 % less: on a CPU, it does for small models only.
    """
    best, best_s = 1, _time_per_image(version, image, 1)
    if best_s > LONG_S:
        return best
    for size in BATCH_SIZES[1:]:
        seconds = _time_per_image(version, image, size)
        if seconds >= MIN_GAIN * best_s:
            break
        best, best_s = size, seconds
    return best


def _time_per_image(version: LoadedVersion, image: Any, size: int) -> float:
    """Return the least time per image, in seconds, of several batches of a size."""
    times, end = list[float](), time.perf_counter() + MEASURE_S
    while len(times) < MIN_ROUNDS or (time.perf_counter() < end and len(times) < MAX_ROUNDS):
        outcomes = version.predict_batch([image] * size)
        times.append(sum(each.model_s for each in outcomes if isinstance(each, Outcome)) / size)
    return min(times)


class VersionTable:
    """Loaded versions by role, such as `production`. Readers need no lock.

    A version that loses its last role is dropped, and its memory is freed after the requests that
    still use it.
    """

    def __init__(self) -> None:
        self._by_role: Mapping[str, LoadedVersion] = MappingProxyType({})
        self._failures: dict[int, str] = {}
        self._lock = threading.Lock()
        self.on_loaded: list[Callable[[LoadedVersion], None]] = []  # called before the first use

    @property
    def production(self) -> LoadedVersion | None:
        """Version that answers by default; None before it is loaded."""
        return self._by_role.get(PRODUCTION)

    def get(self, role: str) -> LoadedVersion | None:
        """Return the version of a role; None if there is none."""
        return self._by_role.get(role)

    def find(self, number: int) -> LoadedVersion | None:
        """Return the loaded version of a number; None if it is not loaded."""
        return next((each for each in self.loaded() if each.number == number), None)

    def loaded(self) -> list[LoadedVersion]:
        """Return the loaded versions, each once."""
        return list({each.number: each for each in self._by_role.values()}.values())

    def roles(self) -> dict[str, int]:
        """Return the number of the version of each role."""
        return {role: version.number for role, version in self._by_role.items()}

    def assign(self, by_role: Mapping[str, LoadedVersion]) -> None:
        """Replace all roles at once."""
        with self._lock:
            loaded = self.loaded()
            for version in by_role.values():
                if version not in loaded:
                    loaded.append(version)
                    for callback in self.on_loaded:
                        callback(version)
            self._by_role = MappingProxyType(dict(by_role))

    def failure(self, number: int) -> str | None:
        """Return the reason why a version did not load or failed its probe; None if it did not."""
        return self._failures.get(number)

    def note_failure(self, number: int, reason: str | None) -> None:
        """Record why a version did not load; None removes the record."""
        with self._lock:
            if reason is None:
                self._failures.pop(number, None)
            else:
                self._failures[number] = reason
