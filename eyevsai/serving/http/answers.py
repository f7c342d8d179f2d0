"""Answers of the server, as protocols, metrics and the inference log get them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyevsai.serving.classifier import UNSURE
from eyevsai.serving.http.errors import RequestError

# arms of answers: the alias that is served, its successor on trial, the same without an answer to
# the client, and a version that the client named
PRODUCTION, CANDIDATE, SHADOW, NAMED = "production", "candidate", "shadow", "named"
Row = npt.NDArray[np.float32]  # C probabilities in the order of the classes


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a version for one image.

    Attributes:
        row: C float32 probabilities.
        width, height: size of the original image in pixels.
        decode_s: seconds for the decoding.
        model_s: seconds for resize and model; in a batch, the share of one image.
        statistics: six float32 values of `measure_image`; None if they are not logged.
        sha256: digest of the image file; None if it is not logged, or for an array.
    """

    row: Row
    width: int
    height: int
    decode_s: float
    model_s: float
    statistics: npt.NDArray[np.float32] | None = None
    sha256: bytes | None = None


@dataclass(slots=True, kw_only=True)
class Answer:
    """One finished prediction, or one that failed. Do not change it: sinks share it.

    It is not frozen, because a frozen dataclass of this size takes three times as long to create.

    Attributes:
        id: id of the answer, for feedback.
        at: Unix time of the request.
        model: name of the registered model.
        version: number of the version.
        classes: class names in the order of `row`.
        arm: PRODUCTION, CANDIDATE, SHADOW or NAMED.
        key: key of the client for a sticky choice of the version, as sent; None without one.
        step: step of the rollout; empty without one.
        threshold: probability below which the label is unsure; None without one.
        outcome: result of the version; None if it failed.
        status: HTTP status: 200, 413 or 422 for an image, 500 or 504 for a failed version.
        error: reason of a failure, else empty.
        queue_s, total_s: seconds in the queue, and from the request to the answer.
        content: image file; None for an array.
        shadow_of: id of the answer whose image this version got, too; None otherwise.
    """

    id: str
    at: float
    model: str
    version: int
    classes: tuple[str, ...]
    arm: str = PRODUCTION
    key: str | None = None
    step: str = ""
    threshold: float | None = None
    outcome: Outcome | None = None
    status: int = 200
    error: str = ""
    queue_s: float = 0.0
    total_s: float = 0.0
    content: bytes | None = None
    shadow_of: str | None = None

    @property
    def row(self) -> Row:
        """Probabilities, C float32; only of an answer that did not fail."""
        assert self.outcome is not None
        return self.outcome.row

    @property
    def best(self) -> str:
        """Most probable class."""
        return self.classes[int(self.row.argmax())]

    @property
    def probability(self) -> float:
        """Probability of the most probable class."""
        return float(self.row.max())

    @property
    def is_unsure(self) -> bool:
        """True if the probability is below the threshold of the version."""
        return self.threshold is not None and self.probability < self.threshold

    @property
    def label(self) -> str:
        """Most probable class, or UNSURE below the threshold of the version."""
        return UNSURE if self.is_unsure else self.best

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes and their probabilities, in descending order."""
        order = np.argsort(-self.row, kind="stable")[:count]
        return [(self.classes[index], float(self.row[index])) for index in order]


class PredictionError(RequestError):
    """Request that gets no prediction.

    Attributes:
        index: position of the image among those of the request; None for a single one.
    """

    def __init__(
        self,
        message: str,
        status: int,
        reason: str,
        *,
        index: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, message, reason=reason, retry_after=retry_after)
        self.index = index


class ImageError(PredictionError):
    """Image that cannot be used, whatever version gets it."""


class ModelError(PredictionError):
    """Version that raised an error, or returned no probabilities."""


class NotReadyError(PredictionError):
    """Server without a version that could answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 503, "not_ready", retry_after=1)
