"""The classifier as other programs use it: load once, then predict from files, bytes or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.data.decode import decode
from eyevsai.errors import UserError
from eyevsai.models.learner import Learner, load
from eyevsai.serving.package import MODEL_FOLDER, check_package, fetch_package

UNSURE = "unsure"  # the label of a prediction that is not sure enough

Image = str | Path | bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one image (or `unsure`), its probability, and those of all classes."""

    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]


class Classifier:
    """A trained model of any family."""

    def __init__(self, learner: Learner, threshold: float | None = None) -> None:
        self._learner = learner
        self.threshold = threshold  # of the probability below which the model had better not answer

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the model's outputs."""
        return self._learner.classes

    @property
    def metadata(self) -> dict[str, Any]:
        """Family, variation, classes, preprocessing and settings, as plain values."""
        return {
            "family": self._learner.family,
            "variation": self._learner.variation,
            "classes": list(self.classes),
            "preprocessing": self._learner.preprocessing.to_json(),
            "settings": dict(vars(self._learner.settings)),
            "threshold": self.threshold,
        }

    def predict(self, image: Image, *, unsure: bool = False) -> Prediction:
        """The prediction for one image; see `predict_batch`."""
        return self.predict_batch([image], unsure=unsure)[0]

    def predict_batch(self, images: Sequence[Image], *, unsure: bool = False) -> list[Prediction]:
        """Predictions for images, each a path, the bytes of a file, or H,W,3 uint8 RGB of any size.

        With `unsure` the label of those below `threshold` is "unsure".

        Raises:
            UserError: an image that does not decode, or an array of another shape or dtype; or `unsure` and no
                threshold is kept with the model.
        """
        if unsure and self.threshold is None:
            raise UserError("No threshold is kept with this model. Find one: eyevsai evaluate --target-precision 0.95, "
                            "then load it by its version.")  # fmt: skip
        probabilities = self._learner.predict_proba([_pixels(image) for image in images])
        return [self._prediction(row, (self.threshold or 0.0) if unsure else 0.0) for row in probabilities]

    def _prediction(self, row: npt.NDArray[np.float32], least: float) -> Prediction:
        best = int(row.argmax())
        named = {name: float(value) for name, value in zip(self.classes, row, strict=True)}
        return Prediction(self.classes[best] if row[best] >= least else UNSURE, float(row[best]), named)


def load_classifier(uri: str) -> Classifier:
    """See `eyevsai.load`."""
    folder, threshold = Path(uri).expanduser(), None
    if folder.is_dir():
        check_package(folder)
    elif uri.startswith(("models:/", "runs:/")):
        folder, threshold = fetch_package(uri), _kept_threshold(uri)
    else:
        raise UserError(f"There is no model folder {uri}. Give a folder, models:/NAME/VERSION or models:/NAME@ALIAS.")
    return Classifier(load(folder / MODEL_FOLDER), threshold)


def _kept_threshold(uri: str) -> float | None:
    """The threshold that an evaluation kept with a registered version."""
    from eyevsai.registry.versions import THRESHOLD, URI, find_version
    from eyevsai.store import open_store

    if not URI.fullmatch(uri):
        return None
    kept = find_version(open_store(), uri).tags.get(THRESHOLD)
    return None if kept is None else float(kept)


def _pixels(image: Image) -> npt.NDArray[np.uint8]:
    if isinstance(image, bytes):
        return decode(image)
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise UserError(f"There is no image file {image}.")
        return decode(Path(image))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"An image is a path, bytes, or an array H,W,3 of uint8, not {shape}.")
    return image
