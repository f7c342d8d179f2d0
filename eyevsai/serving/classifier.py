"""Classifier for other programs, which predicts from files, bytes or arrays."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import rename_settings
from eyevsai.data.decode import Depth, decode
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.formats.factory import EXPORTS
from eyevsai.formats.load import ExportedModel, load_export
from eyevsai.formats.manifest import MANIFEST
from eyevsai.models.learner import Images, Learner
from eyevsai.models.serialization import load, read_config
from eyevsai.serving.fetching import fetch_artifacts
from eyevsai.serving.model_dir import EXPORT_FOLDER, MODEL_FOLDER, check_model_dir, fetch_model_dir
from eyevsai.training.inference import BATCH

if TYPE_CHECKING:
    from eyevsai.registry.versions import Version

log = logging.getLogger("eyevsai")

ABOUT = ("family", "variation", "classes", "preprocessing", "settings", "format")
EXPORT_URI = re.compile(rf"runs:/[0-9a-f]{{32}}/{EXPORTS}/[a-z0-9-]+")
CHUNK_SIZE = BATCH  # images that are decoded before a prediction: full batches on every device
UNSURE = "unsure"  # the label of a prediction below the threshold

Image = str | Path | bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """Most probable class of one image (or `unsure`), its probability, and those of all classes."""

    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes and their probabilities, in descending order."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]


class Model(Protocol):
    """Model of a classifier: a learner, or an export of one."""

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """Return float32 probabilities (N,C) of N uint8 RGB images of any sizes."""


class Classifier:
    """Trained model of any family, or an export of one. Several threads may share a classifier."""

    def __init__(
        self, model: Model, about: Mapping[str, Any], threshold: float | None = None
    ) -> None:
        self._model = model
        self._about = about
        self._preprocessing = Preprocessing.from_json(about["preprocessing"])
        self.threshold = threshold  # probability below which the model should abstain

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the model's outputs."""
        return tuple(self._about["classes"])

    @property
    def metadata(self) -> dict[str, Any]:
        """Family, variation, classes, preprocessing, settings, format and threshold.

        The values are JSON-serializable; the format is None for a model that is not an export.
        """
        return {**self._about, "threshold": self.threshold}

    @property
    def depth(self) -> Depth | None:
        """Value range of the training images with more than 8 bits.

        None in models that were trained before the range was stored.
        """
        return self._preprocessing.depth

    def predict(self, image: Image, *, unsure: bool = False) -> Prediction:
        """Return the prediction for one image, with the arguments of `predict_batch`."""
        return self.predict_batch([image], unsure=unsure)[0]

    def predict_batch(self, images: Iterable[Image], *, unsure: bool = False) -> list[Prediction]:
        """Return the predictions for images, each a path, the bytes of a file, or H,W,3 uint8 RGB.

        Images may have any sizes. They are decoded and resized one at a time, so that memory does
        not grow with their full sizes. With `unsure`, the label of a prediction with a probability
        below `threshold` is "unsure".

        Raises:
            UserError: an image cannot be decoded, an array has another shape or dtype, or `unsure`
                is set and the model has no threshold.
        """
        if unsure and self.threshold is None:
            raise UserError(
                "No threshold is stored with this model. Determine one with eyevsai evaluate "
                "--target-precision 0.95, then load the model by its version."
            )
        min_probability = (self.threshold or 0.0) if unsure else 0.0
        predictions: list[Prediction] = []
        # lazy, so that at most two images are in memory at full size
        decoded = (decode_image(image, self.depth) for image in images)
        squares = map(self._preprocessing.resize_to_square, decoded)
        while chunk := list(islice(squares, CHUNK_SIZE)):
            predictions += [
                self._to_prediction(row, min_probability)
                for row in self._model.predict_proba(chunk)
            ]
        return predictions

    def _to_prediction(self, row: npt.NDArray[np.float32], min_probability: float) -> Prediction:
        best = int(row.argmax())
        probabilities = {name: float(value) for name, value in zip(self.classes, row, strict=True)}
        label = self.classes[best] if row[best] >= min_probability else UNSURE
        return Prediction(label, float(row[best]), probabilities)


def load_classifier(uri: str, *, trusted: bool = False) -> Classifier:
    """Load a classifier from a model URI, a folder, or a file of an export.

    A registered version is loaded with its threshold. If the URI names a stage, a warning is logged
    unless the classes of its version were accepted by a promotion.

    Args:
        uri: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, a `runs:/...` URI of a model or an
            export, the folder of either, or a file in the folder of an export.
        trusted: open formats that can contain code, too.

    Raises:
        UserError: there is no such model, or its files are missing, changed or not allowed.
    """
    if not uri:  # Path("") is the current folder
        raise UserError(
            "The model's name is empty. Use a folder, models:/NAME/VERSION or models:/NAME@ALIAS."
        )
    path, version = Path(uri).expanduser(), None
    if path.is_file() and (path.parent / MANIFEST).is_file():
        path = path.parent
    if path.is_dir() and (path / MANIFEST).is_file():
        return _classifier_of_export(load_export(path, trusted=trusted))
    if path.is_dir():
        check_model_dir(path)
    elif EXPORT_URI.fullmatch(uri):
        return _classifier_of_export(load_export(fetch_artifacts(uri), trusted=trusted))
    elif uri.startswith(("models:/", "runs:/")):
        version, path = _find_version(uri), fetch_model_dir(uri)
    elif path.exists():
        raise UserError(
            f"{uri} is not a model. Use the folder of a model, the folder or the file of an "
            "export, models:/NAME/VERSION or models:/NAME@ALIAS."
        )
    else:
        raise UserError(
            f"There is no model {uri}. Use a folder, models:/NAME/VERSION or models:/NAME@ALIAS."
        )
    classifier = open_model(path / MODEL_FOLDER, version.threshold if version else None)
    if version is not None:
        _warn_if_classes_differ(uri, version, classifier.classes)
    return classifier


def open_model(folder: Path, threshold: float | None = None) -> Classifier:
    """Return the classifier in a version's data folder: its ONNX export, or else the learner.

    An export that is still being written is ignored. With a `threshold` of None, that of the export
    is used.

    Raises:
        UserError: the folder contains no valid model, or an export of another model.
    """
    exported = folder / Path(EXPORT_FOLDER).name
    if not (exported / MANIFEST).is_file():  # the manifest is written last
        return make_classifier(load(folder), threshold)
    opened, card = load_export(exported), read_config(folder)
    if opened.manifest.get("weights_sha256") != card["sha256"]:
        raise UserError(
            f"{exported} is not an export of the model in {folder}. Export the model again."
        )
    return _classifier_of_export(opened, threshold)


def make_classifier(learner: Learner, threshold: float | None = None) -> Classifier:
    """Return the classifier of a learner in memory."""
    about = {
        "family": learner.family,
        "variation": learner.variation,
        "classes": list(learner.classes),
        "preprocessing": learner.preprocessing.to_json(),
        "settings": dict(vars(learner.settings)),
        "format": None,
    }
    return Classifier(learner, about, threshold)


def _classifier_of_export(export: ExportedModel, threshold: float | None = None) -> Classifier:
    about = {name: export.manifest[name] for name in ABOUT}
    # exports by earlier versions of eyevsai have the former names of settings
    about["settings"] = rename_settings(about["settings"])
    return Classifier(
        export, about, export.manifest["threshold"] if threshold is None else threshold
    )


def _find_version(uri: str) -> Version | None:
    """Return the registered version that a URI names; None for other URIs, such as runs:/..."""
    from eyevsai.registry.versions import URI, find_version
    from eyevsai.store.backend import open_store

    return find_version(open_store(), uri) if URI.fullmatch(uri) else None


def _warn_if_classes_differ(uri: str, version: Version, classes: Sequence[str]) -> None:
    """Log a warning if `uri` names a stage and the classes differ from the promoted ones.

    The alias or the stage was then set by hand, because a promotion requires consent to a change of
    classes.
    """
    from eyevsai.registry.classes import (
        compare_classes,
        hash_classes,
        recorded_classes,
        stage_prefix,
    )
    from eyevsai.registry.entities import find_model, open_registry
    from eyevsai.registry.stages import stage_of_uri
    from eyevsai.store.backend import open_store
    from eyevsai.store.tags import CLASSES_SHA256

    stage = stage_of_uri(uri)
    model = find_model(open_registry(open_store()), version.name) if stage else None
    if stage is None or model is None:
        return
    promoted = model.tags.get(f"{stage_prefix(stage)}{CLASSES_SHA256}")
    if promoted in (None, "", hash_classes(classes)):
        return
    recorded = recorded_classes(model, stage_prefix(stage))
    difference = f": {compare_classes(recorded, classes)}" if recorded is not None else ""
    log.warning(
        "%s is version %s, whose classes differ from the promoted ones%s. The change was not "
        "accepted, because the alias or the stage was set by hand. Accept it with: eyevsai promote "
        "%s --version %s --to %s --class-change true",
        uri,
        version.number,
        difference,
        version.name,
        version.number,
        stage,
    )


def decode_image(image: Image, depth: Depth | None = None) -> npt.NDArray[np.uint8]:
    """Return an image as H,W,3 uint8 RGB.

    Args:
        image: a path, the bytes of a file, or H,W,3 uint8 RGB, which is returned unchanged.
        depth: value range of images with more than 8 bits; None scales each by its own values.

    Raises:
        UserError: the file does not exist or cannot be decoded, or the image has another type,
            shape or dtype.
    """
    if isinstance(image, bytes):
        return decode(image, depth)
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise UserError(f"There is no image file {image}.")
        return decode(Path(image), depth)
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.shape[2:] != (3,)
        or not image.size
    ):
        shape = (
            f"{image.dtype} {image.shape}"
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise UserError(f"An image must be a path, bytes, or H,W,3 uint8, not {shape}.")
    return image
