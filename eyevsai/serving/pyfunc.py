"""MLflow pyfunc model, from a table with a column `image` to a table of predictions."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.serving.classifier import Classifier, Image, decode_image, open_model

if TYPE_CHECKING:
    import pandas as pd

SERVED = "__pyfunc_model_path__"  # variable that MLflow's scoring server sets for its workers
COLUMN = "image"
IMAGE_FORMATS = "An image must be base64, or H lists of W lists of 3 whole numbers from 0 to 255"


class PyfuncModel:
    """Python model that `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return columns label, probability and probabilities for the rows of `model_input`.

        The column `image` contains the bytes of a file, the same in base64, an array H,W,3 uint8,
        nested lists of its values, or a path. A served model does not accept paths.

        Raises:
            UserError: the column is missing, or a cell is not an image. In MLflow's scoring server,
                MlflowException is raised instead, because the server returns its message.
        """
        try:
            return self._predict(model_input)
        except UserError as error:
            if SERVED not in os.environ:
                raise
            from mlflow.exceptions import MlflowException

            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        columns = getattr(model_input, "columns", ())
        if COLUMN not in columns:
            raise UserError(f"The input has no column {COLUMN!r}, only {list(columns)}. Add it.")
        predictions = self.classifier.predict_batch(self._read_cells(list(model_input[COLUMN])))
        return pd.DataFrame(
            [vars(prediction) for prediction in predictions], index=model_input.index
        )

    def _read_cells(self, cells: Sequence[Any]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the decoded images of a column, one at a time."""
        for number, cell in enumerate(cells, 1):
            try:
                yield decode_image(read_cell(cell), self.classifier.depth)
            except UserError as error:
                raise UserError(f"Record {number} of {len(cells)}: {error}") from error


def read_cell(cell: Any) -> Image:
    """Return the image in a cell of the table: an array, the bytes of a file, or a path.

    Raises:
        UserError: the cell is a string that is neither base64 nor, if paths are accepted, an
            existing file; lists that are not pixels; or of another type.
    """
    if isinstance(cell, list):
        return _read_lists(cell)
    if isinstance(cell, bytes | np.ndarray | Path):
        return cell
    if not isinstance(cell, str):
        raise UserError(f"{IMAGE_FORMATS}, not {json.dumps(cell, default=repr)[:80]}.")
    if SERVED not in os.environ and len(cell) < 4096 and Path(cell).is_file():
        return Path(cell)
    try:
        return base64.b64decode(cell, validate=True)
    except ValueError:  # not only binascii.Error: non-ASCII text raises ValueError itself
        hint = (
            "A served model does not accept paths."
            if SERVED in os.environ
            else "There is no such file either."
        )
        raise UserError(f"The image {cell[:80]!r} is not base64. {hint}") from None


def _read_lists(cell: list[Any]) -> npt.NDArray[np.uint8]:
    try:
        values = np.asarray(cell)
    except ValueError:
        raise UserError(f"{IMAGE_FORMATS}, not lists of unequal lengths.") from None
    # MLflow parses {"inputs": {"image": [...]}} to one cell with all images
    if values.dtype.kind == "U" and values.ndim == 1:
        raise UserError(
            f"{IMAGE_FORMATS}, not a list of strings. Send each image as a record: "
            f'{{"dataframe_records": [{{"{COLUMN}": ...}}, ...]}}.'
        )
    if values.dtype.kind not in "iuf" and values.size:
        raise UserError(f"{IMAGE_FORMATS}, not lists of other values.")
    if values.shape[2:] != (3,) or not values.size:
        raise UserError(f"{IMAGE_FORMATS}, not lists of shape {values.shape}.")
    if len(wrong := values[(values < 0) | (values > 255) | (values != np.floor(values))]):
        raise UserError(f"{IMAGE_FORMATS}, not {wrong[0]}.")
    return values.astype(np.uint8)


def _load_pyfunc(path: str) -> PyfuncModel:
    """Return the model in a data folder. MLflow calls this function by its name."""
    return PyfuncModel(open_model(Path(path)))
