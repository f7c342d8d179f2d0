"""Classifier for other programs, which predicts from files, bytes or arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import rename_settings
from eyevsai.core.model_ref import MODEL_FORMS, SCHEME, ModelRef, parse_model
from eyevsai.core.paths import expand, is_dir, is_file, path_error
from eyevsai.data.decode import Depth
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.formats.load import ExportedModel, load_export
from eyevsai.formats.manifest import MANIFEST
from eyevsai.models.learner import Images, Learner
from eyevsai.models.serialization import load, read_config
from eyevsai.serving.fetching import fetch_artifacts
from eyevsai.serving.images import Image, decode_image
from eyevsai.serving.model_dir import EXPORT_FOLDER, MODEL_FOLDER, check_model_dir, fetch_model_dir
from eyevsai.training.inference import BATCH

if TYPE_CHECKING:
    from eyevsai.registry.versions import Version

log = logging.getLogger("eyevsai")

ABOUT = ("family", "variation", "classes", "preprocessing", "settings", "format")
CHUNK_SIZE = BATCH  # images that are decoded before a prediction: full batches on every device
UNSURE = "unsure"  # the label of a prediction below the threshold


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
        squares = map(self.resize_to_square, decoded)
        while chunk := list(islice(squares, CHUNK_SIZE)):
            predictions += [
                self._to_prediction(row, min_probability) for row in self.predict_squares(chunk)
            ]
        return predictions

    def resize_to_square(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return an image H,W,3 uint8 RGB of any size as `predict_squares` takes it."""
        return self._preprocessing.resize_to_square(image)

    def predict_squares(self, squares: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return the probabilities, N,C float32, of N results of `resize_to_square`."""
        return self._model.predict_proba(squares)

    def _to_prediction(self, row: npt.NDArray[np.float32], min_probability: float) -> Prediction:
        best = int(row.argmax())
        probabilities = {name: float(value) for name, value in zip(self.classes, row, strict=True)}
        label = self.classes[best] if row[best] >= min_probability else UNSURE
        return Prediction(label, float(row[best]), probabilities)


def load_classifier(uri: str, *, trusted: bool = False) -> Classifier:
    """Load a classifier from a registered version, a run, a folder, or a file of an export.

    A registered version is loaded with its threshold. If the reference names a stage, a warning is
    logged unless the classes of its version were accepted by a promotion. A folder of a model or
    an export takes precedence over a version of the same spelling, with a warning.

    Args:
        uri: `NAME/VERSION`, `NAME@ALIAS` or `NAME/Production`, with or without `models:/`, a run
            id, a `runs:/...` URI of a model or an export, the folder of either, or a file in the
            folder of an export.
        trusted: open formats that can contain code, too.

    Raises:
        UserError: there is no such model, or its files are missing, changed or not allowed.
    """
    located = locate_model(uri)
    if located.is_export:
        return _classifier_of_export(load_export(located.path, trusted=trusted))
    version = located.version
    classifier = open_model(located.path / MODEL_FOLDER, version.threshold if version else None)
    if version is not None:
        _warn_if_classes_differ(located.reference, version, classifier.classes)
    return classifier


@dataclass(frozen=True)
class LocatedModel:
    """Local folder of a model, which was validated, or of an export, which was not.

    `version` is None if the model is not registered, or if the reference is a path.
    """

    reference: ModelRef
    path: Path
    version: Version | None = None
    is_export: bool = False


def locate_model(uri: str) -> LocatedModel:
    """Return the local folder of a model; see `load_classifier` for `uri`.

    Raises:
        UserError: there is no such model, or its files are missing or not allowed.
    """
    reference, path = parse_model(uri), expand(uri)
    if is_file(path) and is_file(path.parent / MANIFEST):
        path = path.parent
    if is_dir(path) and is_file(path / MANIFEST):
        _warn_if_ambiguous(reference)
        return LocatedModel(reference, path, is_export=True)
    # a folder of images can have the name of a version, such as digits/3
    if is_dir(path) and (is_file(path / "MLmodel") or not reference.is_version):
        _warn_if_ambiguous(reference)
        check_model_dir(path)
        return LocatedModel(reference, path)
    if is_file(path) and not reference.is_version:
        raise UserError(f"{uri} is not a model. Use {MODEL_FORMS}.")
    if reference.is_path:
        raise path_error(path) or UserError(f"There is no model {uri}. Use {MODEL_FORMS}.")
    if reference.is_export:
        return LocatedModel(reference, fetch_artifacts(uri), is_export=True)
    version, folder = _fetch(reference)
    return LocatedModel(reference, folder, version)


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


def _warn_if_ambiguous(reference: ModelRef) -> None:
    """Log a warning if a path that is loaded could also be a version of a registered model."""
    if reference.is_version:
        log.warning(
            "%s is a path here, and is loaded from there. For the registered version, use %s%s",
            reference.text,
            SCHEME,
            reference.text,
        )


def _fetch(reference: ModelRef) -> tuple[Version | None, Path]:
    """Return the version of a reference, None if it is not registered, and its model directory."""
    from eyevsai.registry.entities import find_model, missing_model, open_registry
    from eyevsai.registry.lookup import find_version
    from eyevsai.registry.versions import version_of_run
    from eyevsai.store.backend import open_store
    from eyevsai.tracking.search import find_run

    store = open_store()
    if reference.artifact or reference.model_id is not None:  # files of a run or a logged model
        return None, fetch_model_dir(reference.text)
    if reference.run_id is None:
        client = open_registry(store)
        if reference.text == reference.name and find_model(client, reference.name) is None:
            missing = missing_model(client, reference.name)
            raise UserError(f"There is no model {reference.text}: no such path exists. {missing}")
        version = find_version(store, reference)
        return version, fetch_model_dir(version.uri)
    registered = version_of_run(store, reference.run_id)
    uri = registered.uri if registered else find_run(store, reference.run_id).model_uri
    if uri is None:
        raise UserError(f"Run {reference.run_id} has no model. Use a finished training run.")
    return registered, fetch_model_dir(uri)


def _warn_if_classes_differ(reference: ModelRef, version: Version, classes: Sequence[str]) -> None:
    """Log a warning if a stage is referenced and the classes differ from the promoted ones.

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
    from eyevsai.registry.stages import STAGES
    from eyevsai.store.backend import open_store
    from eyevsai.store.tags import CLASSES_SHA256

    stage = reference.stage or reference.alias
    model = find_model(open_registry(open_store()), version.name) if stage in STAGES else None
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
        "%s --to %s --class-change true",
        reference.text,
        version.number,
        difference,
        version.argument,
        stage,
    )
