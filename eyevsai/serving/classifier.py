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
from eyevsai.serving.package import MODEL_FOLDER, check_package

Image = str | Path | bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one image, its probability, and those of all classes."""

    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]


class Classifier:
    """A trained model of any family."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

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
        }

    def predict(self, image: Image) -> Prediction:
        """The prediction for one image; see `predict_batch`."""
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[Image]) -> list[Prediction]:
        """Predictions for images, each a path, the bytes of a file, or H,W,3 uint8 RGB of any size.

        Raises:
            UserError: an image that does not decode, or an array of another shape or dtype.
        """
        probabilities = self._learner.predict_proba([_pixels(image) for image in images])
        return [self._prediction(row) for row in probabilities]

    def _prediction(self, row: npt.NDArray[np.float32]) -> Prediction:
        best = int(row.argmax())
        named = {name: float(value) for name, value in zip(self.classes, row, strict=True)}
        return Prediction(self.classes[best], float(row[best]), named)


def load_classifier(uri: str) -> Classifier:
    """See `eyevsai.load`."""
    folder = Path(uri).expanduser()
    if not folder.is_dir():
        folder = _download(uri)
    check_package(folder)
    return Classifier(load(folder / MODEL_FOLDER))


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


def _download(uri: str) -> Path:
    if not uri.startswith(("models:/", "runs:/")):
        raise UserError(f"There is no model folder {uri}. Give a folder, models:/NAME/VERSION or models:/NAME@ALIAS.")
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    from eyevsai.store import open_store, shown

    store = open_store()
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        raise UserError(f"Cannot load {uri} from the store {shown(store)}: {error}") from error
