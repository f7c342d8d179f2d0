"""Workflow of `predict`: classify image files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.data.decode import ImageDecodeError, decode
from eyevsai.data.parallel import parallel_map
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.serving.classifier import UNSURE, Prediction, load_classifier

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class FilePrediction:
    """Prediction for one image file, or the reason why the file cannot be decoded."""

    path: Path
    label: str | None  # None with an error; UNSURE below the threshold
    top: list[tuple[str, float]]  # most likely classes and their probabilities
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the path with label and probabilities, or with the error, as plain values."""
        if self.error is not None:
            return {"image": str(self.path), "error": self.error}
        return {"image": str(self.path), "label": self.label, "probabilities": dict(self.top)}

    def to_text(self) -> str:
        """Return one tab-separated line: path, `unsure` if it is, then classes and probabilities.

        With an error: path and `bad: ERROR`. Unprintable characters are escaped.
        """
        if self.error is not None:
            cells = [str(self.path), f"bad: {self.error}"]
        else:
            cells = [str(self.path), *([UNSURE] if self.label == UNSURE else [])]
            cells += [
                cell for name, probability in self.top for cell in (name, f"{probability:.4f}")
            ]
        return "\t".join(map(_escape, cells))


def predict(
    model: str, paths: Sequence[Path], top_k: int, threshold: float | None, *, trusted: bool = False
) -> Iterator[FilePrediction]:
    """Yield a prediction for each image file, in order.

    A file that cannot be decoded yields a prediction with an error.

    Args:
        model: URI of a registered version, or path of a model directory or an export.
        paths: image files.
        top_k: number of most likely classes to return.
        threshold: probability below which the label is UNSURE; None uses that of the model.
        trusted: load formats that may execute code.

    Raises:
        UserError: the model does not exist or is unusable.
    """
    classifier = load_classifier(model, trusted=trusted)
    if threshold is not None:
        classifier.threshold = threshold
    preprocessing = Preprocessing.from_json(classifier.metadata["preprocessing"])
    num_finished = 0
    for batch in parallel_map(_Decoder(preprocessing), paths, "Predicting"):
        batch_paths = paths[num_finished : num_finished + len(batch)]
        num_finished += len(batch)
        decoded = [image for image in batch if not isinstance(image, str)]
        predictions = iter(
            classifier.predict_batch(decoded, unsure=classifier.threshold is not None)
        )
        for path, image in zip(batch_paths, batch, strict=True):
            yield (
                FilePrediction(path, None, [], image)
                if isinstance(image, str)
                else _to_file_prediction(path, next(predictions), top_k)
            )


def _to_file_prediction(path: Path, prediction: Prediction, top_k: int) -> FilePrediction:
    return FilePrediction(path, prediction.label, prediction.top(top_k))


@dataclass(frozen=True)
class _Decoder:
    """Function from paths to square H,W,3 images, or the error message of each undecodable file."""

    preprocessing: Preprocessing

    def __call__(self, paths: Sequence[Path]) -> list[npt.NDArray[np.uint8] | str]:
        return [self._decode(path) for path in paths]

    def _decode(self, path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            image = decode(path, self.preprocessing.depth)
        except ImageDecodeError as error:
            return error.reason
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return self.preprocessing.resize_to_square(image)


def _escape(cell: str) -> str:
    """Return a table cell with all unprintable characters as escape sequences.

    Tabs and newlines in a file name would break the table; other control characters would reach
    the terminal.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cell
    )
