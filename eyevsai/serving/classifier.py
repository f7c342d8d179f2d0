"""The classifier as other programs use it: load once, then predict from files, bytes or arrays."""

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
AT_ONCE = BATCH  # images that are read before they are predicted: whole batches of every device
UNSURE = "unsure"  # the label of a prediction that is not sure enough

Image = str | Path | bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one image (or `unsure`), its probability, and those of all
    classes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:count]


class Model(Protocol):
    """What a classifier asks: a learner, or an export of one."""

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """N images uint8 RGB of any size -> N,C float32 probabilities."""


class Classifier:
    """A trained model of any family, as it was trained or as it was exported. Several threads may
    ask it at once.
    """

    def __init__(
        self, model: Model, about: Mapping[str, Any], threshold: float | None = None
    ) -> None:
        self._model = model
        self._about = about
        self._preprocessing = Preprocessing.from_json(about["preprocessing"])
        self.threshold = threshold  # of the probability below which the model had better not answer

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the model's outputs."""
        return tuple(self._about["classes"])

    @property
    def metadata(self) -> dict[str, Any]:
        """Family, variation, classes, preprocessing, settings, format and threshold, as plain
        values.
        """
        return {**self._about, "threshold": self.threshold}

    @property
    def depth(self) -> Depth | None:
        """The range of images with more than 8 bits that it was trained on; None in models from
        before it was kept.
        """
        return self._preprocessing.depth

    def predict(self, image: Image, *, unsure: bool = False) -> Prediction:
        """The prediction for one image; see `predict_batch`."""
        return self.predict_batch([image], unsure=unsure)[0]

    def predict_batch(self, images: Iterable[Image], *, unsure: bool = False) -> list[Prediction]:
        """Predictions for images, each a path, the bytes of a file, or H,W,3 uint8 RGB of any size.

        They are read one after another, so that memory does not grow with their number.
        With `unsure` the label of those below `threshold` is "unsure".

        Raises:
            UserError: an image that does not decode, or an array of another shape or dtype; or
                `unsure` and no threshold is kept with the model.
        """
        if unsure and self.threshold is None:
            raise UserError(
                "No threshold is kept with this model. Find one: eyevsai evaluate "
                "--target-precision 0.95, then load it by its version."
            )
        least = (self.threshold or 0.0) if unsure else 0.0
        found: list[Prediction] = []
        # none is kept at its full size
        pictures = (decode_image(image, self.depth) for image in images)
        squares = map(self._preprocessing.resize_to_square, pictures)
        while some := list(islice(squares, AT_ONCE)):
            found += [self._prediction(row, least) for row in self._model.predict_proba(some)]
        return found

    def _prediction(self, row: npt.NDArray[np.float32], least: float) -> Prediction:
        best = int(row.argmax())
        named = {name: float(value) for name, value in zip(self.classes, row, strict=True)}
        return Prediction(
            self.classes[best] if row[best] >= least else UNSURE, float(row[best]), named
        )


def load_classifier(uri: str, *, trusted: bool = False) -> Classifier:
    """Load a classifier from a model URI, a folder or a file, as `eyevsai.load` does."""
    if not uri:  # which would be the current folder
        raise UserError(
            "The model's name is empty: give a folder, models:/NAME/VERSION or models:/NAME@ALIAS."
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
    else:
        raise UserError(
            f"There is no model {uri}. Give a folder, models:/NAME/VERSION or models:/NAME@ALIAS."
        )
    classifier = open_model(path / MODEL_FOLDER, version.threshold if version else None)
    if version is not None:
        _warn_of_other_classes(uri, version, classifier.classes)
    return classifier


def open_model(folder: Path, threshold: float | None = None) -> Classifier:
    """The classifier of a version's data folder: its ONNX export, once all of it is there, else the
    learner itself.

    Raises:
        UserError: no model is there, or the export is not one of this model.
    """
    exported = folder / Path(EXPORT_FOLDER).name
    if not (exported / MANIFEST).is_file():  # which arrives last
        return make_classifier(load(folder), threshold)
    opened, card = load_export(exported), read_config(folder)
    if opened.manifest.get("weights_sha256") != card["sha256"]:
        raise UserError(
            f"{exported} is not an export of the model that lies beside it. Export the model again."
        )
    return _classifier_of_export(opened, threshold)


def make_classifier(learner: Learner, threshold: float | None = None) -> Classifier:
    """The classifier of a learner that is in memory."""
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
    about["settings"] = rename_settings(about["settings"])  # an export of an earlier eyevsai
    return Classifier(
        export, about, export.manifest["threshold"] if threshold is None else threshold
    )


def _find_version(uri: str) -> Version | None:
    """Return the registered version that a URI names; None if it names something else."""
    from eyevsai.registry.versions import URI, find_version
    from eyevsai.store.backend import open_store

    return find_version(open_store(), uri) if URI.fullmatch(uri) else None


def _warn_of_other_classes(uri: str, version: Version, classes: Sequence[str]) -> None:
    """Log a warning if `uri` names a stage whose version has other classes than were promoted to
    it.

    Its alias or stage was set by hand then: a promotion asks for consent.
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
    how = f": {compare_classes(recorded, classes)}" if recorded is not None else ""
    log.warning(
        "%s is version %s, whose classes differ from those that were promoted%s. Nobody accepted "
        "them: the alias or the stage was set by hand. Accept them with: eyevsai promote %s "
        "--version %s --to %s --class-change true",
        uri,
        version.number,
        how,
        version.name,
        version.number,
        stage,
    )


def decode_image(image: Image, depth: Depth | None = None) -> npt.NDArray[np.uint8]:
    """An image, decoded; raises UserError, see `Classifier.predict_batch`."""
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
        raise UserError(f"An image is a path, bytes, or an array H,W,3 of uint8, not {shape}.")
    return image
