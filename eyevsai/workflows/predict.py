"""predict: what a trained model says of image files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.data.decode import ImageDecodeError, decode
from eyevsai.data.files import is_image, walk
from eyevsai.data.parallel import parallel_map
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.unused_files import UnusedFile, describe_unused, reason_not_an_image, unused_pages
from eyevsai.serving.classifier import UNSURE, Prediction, load_classifier

log = logging.getLogger("eyevsai")

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class FilePrediction:
    """What is said of one file, or why nothing is."""

    path: Path
    label: str | None
    top: list[tuple[str, float]]
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        if self.error is not None:
            return {"image": str(self.path), "error": self.error}
        return {"image": str(self.path), "label": self.label, "probabilities": dict(self.top)}

    def to_text(self) -> str:
        """A line of a table."""
        if self.error is not None:
            cells = [str(self.path), f"bad: {self.error}"]
        else:
            cells = [str(self.path), *([UNSURE] if self.label == UNSURE else [])]
            cells += [
                cell for name, probability in self.top for cell in (name, f"{probability:.4f}")
            ]
        return "\t".join(map(_escaped, cells))


def predict(
    model: str, images: Sequence[str], top_k: int, threshold: float | None, *, trusted: bool = False
) -> Iterator[FilePrediction]:
    """Answers for image files, in order; files that are no images have an error.

    Raises:
        UserError: no such model, file or folder.
    """
    classifier = load_classifier(model, trusted=trusted)
    if threshold is not None:
        classifier.threshold = threshold
    paths = _find_images(images)
    preprocessing = Preprocessing.from_json(classifier.metadata["preprocessing"])
    done = 0
    for pictures in parallel_map(_Decoder(preprocessing), paths, "Predicting"):
        some = paths[done : done + len(pictures)]
        done += len(pictures)
        good = [picture for picture in pictures if not isinstance(picture, str)]
        said = iter(classifier.predict_batch(good, unsure=classifier.threshold is not None))
        for path, picture in zip(some, pictures, strict=True):
            yield (
                FilePrediction(path, None, [], picture)
                if isinstance(picture, str)
                else _answer(path, next(said), top_k)
            )


def _answer(path: Path, prediction: Prediction, top_k: int) -> FilePrediction:
    return FilePrediction(path, prediction.label, prediction.top(top_k))


@dataclass(frozen=True)
class _Decoder:
    """Decodes files and resizes them to squares; of one that is no image, why."""

    preprocessing: Preprocessing

    def __call__(self, paths: Sequence[Path]) -> list[npt.NDArray[np.uint8] | str]:
        return [self._decode(path) for path in paths]

    def _decode(self, path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            picture = decode(path, self.preprocessing.depth)
        except (ImageDecodeError, OSError) as error:
            return str(error)
        return self.preprocessing.resize_to_square(picture)


def _escaped(cell: str) -> str:
    """A tab or a line's end in a name would look like those of the table, and other controls reach
    the terminal.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cell
    )


def _find_images(given: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in given:
        if not name:  # which would be the current folder
            raise UserError(
                "An image's name is empty: give a file, a folder, or - for names from standard "
                "input."
            )
        path = _path_of(name)
        if name == STANDARD_INPUT:
            found += [image for line in _read_names() for image in _images_at(line)]
        elif path.is_dir() or path.is_file():
            found += _images_at(path)
        else:
            raise UserError(f"There is no image file or folder {name}.")
    return found


def _images_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside, others, pages = list[Path](), list[UnusedFile](), list[Path]()
    for each, _ in walk(path, pages=pages):
        if is_image(each):
            inside.append(each)
        else:
            others.append(reason_not_an_image(each))
    unused = describe_unused([*others, *unused_pages(pages)])
    if not inside:
        raise UserError(f"{path} holds no image. Not used: {unused or 'nothing is in it'}.")
    if unused:
        log.warning("not used: %s", unused)
    return sorted(inside)


def _read_names() -> list[Path]:
    takes = f"{STANDARD_INPUT} takes names of files and folders, one per line"
    content = sys.stdin.buffer.read()
    try:
        lines = content.decode().split("\n") if b"\0" not in content else None
    except UnicodeDecodeError:
        lines = None
    if lines is None:
        raise UserError(f"Standard input holds no text, as an image does: {takes}.")
    if not (names := [line for line in lines if line.strip()]):
        raise UserError(f"Standard input is empty: {takes}.")
    return [_path_of(name.removesuffix("\r")) for name in names]


def _path_of(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such user, but there may be such a file
        return Path(name)
