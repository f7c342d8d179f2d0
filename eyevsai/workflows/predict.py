"""Workflow of `predict`: classify image files."""

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
    model: str, images: Sequence[str], top_k: int, threshold: float | None, *, trusted: bool = False
) -> Iterator[FilePrediction]:
    """Yield a prediction for each image file, in order.

    A file that cannot be decoded yields a prediction with an error.

    Args:
        model: URI of a registered version, or path of a model directory or an export.
        images: paths of files and folders; `-` reads paths from standard input.
        top_k: number of most likely classes to return.
        threshold: probability below which the label is UNSURE; None uses that of the model.
        trusted: load formats that may execute code.

    Raises:
        UserError: the model, a file or a folder does not exist, or a folder or standard input
            contains no images.
    """
    classifier = load_classifier(model, trusted=trusted)
    if threshold is not None:
        classifier.threshold = threshold
    paths = _find_images(images)
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
        except (ImageDecodeError, OSError) as error:
            return str(error)
        return self.preprocessing.resize_to_square(image)


def _escape(cell: str) -> str:
    """Return a table cell with all unprintable characters as escape sequences.

    Tabs and newlines in a file name would break the table; other control characters would reach
    the terminal.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cell
    )


def _find_images(names: Sequence[str]) -> list[Path]:
    """Return the files of `names`, which are files, folders or `-`, in order.

    Raises:
        UserError: a name is empty or does not exist, or a folder or standard input has no images.
    """
    images: list[Path] = []
    for name in names:
        if not name:  # Path("") would be the current folder
            raise UserError(
                "An image path is empty. Use a file, a folder, or - to read paths from standard "
                "input."
            )
        path = _to_path(name)
        if name == STANDARD_INPUT:
            images += [image for line in _read_paths() for image in _list_images(line)]
        elif path.is_dir() or path.is_file():
            images += _list_images(path)
        else:
            raise UserError(f"There is no image file or folder {name}. Check the path.")
    return images


def _list_images(path: Path) -> list[Path]:
    """Return the images in a folder, sorted; a path that is not a folder as it is.

    Logs a warning about the other files of a folder, and raises UserError if it has no images.
    """
    if not path.is_dir():
        return [path]
    images, others, pages = list[Path](), list[UnusedFile](), list[Path]()
    for each, _ in walk(path, pages=pages):
        if is_image(each):
            images.append(each)
        else:
            others.append(reason_not_an_image(each))
    unused = describe_unused([*others, *unused_pages(pages)])
    if not images:
        raise UserError(
            f"There are no images in {path} ({unused or 'it is empty'}). Use image files, or a "
            "folder with images."
        )
    if unused:
        log.warning("not used: %s", unused)
    return sorted(images)


def _read_paths() -> list[Path]:
    """Return the paths on standard input, one per line; raise UserError if there are none."""
    usage = f"{STANDARD_INPUT} reads paths of files and folders, one per line"
    content = sys.stdin.buffer.read()
    try:
        lines = content.decode().split("\n") if b"\0" not in content else None
    except UnicodeDecodeError:
        lines = None
    if lines is None:
        raise UserError(f"Standard input is not UTF-8 text: {usage}.")
    if not (names := [line for line in lines if line.strip()]):
        raise UserError(f"Standard input is empty: {usage}.")
    return [_to_path(name.removesuffix("\r")) for name in names]


def _to_path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # "~name" without such a user may be a file name
        return Path(name)
