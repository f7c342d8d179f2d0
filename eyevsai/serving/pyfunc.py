"""MLflow's generic model: a table with a column `image` in, a table of predictions out."""

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

SERVED = "__pyfunc_model_path__"  # MLflow's scoring server sets it for its workers
COLUMN = "image"
ONE_IMAGE = "An image is base64, or H lists of W lists of 3 whole numbers from 0 to 255"


class PyfuncModel:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Columns label, probability and probabilities for each row of the column `image`.

        An image is the bytes of a file, those in base64, H,W,3 uint8, that as lists, or, except
        over HTTP, a path.

        Raises:
            UserError: no such column, or an image that is none of these; where it is served, as an
                MLflow error, whose text its server sends back.
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
            raise UserError(
                f"The input is a table with a column {COLUMN!r}; this one has {list(columns)}."
            )
        predictions = self.classifier.predict_batch(self._read_cells(list(model_input[COLUMN])))
        return pd.DataFrame(
            [vars(prediction) for prediction in predictions], index=model_input.index
        )

    def _read_cells(self, cells: Sequence[Any]) -> Iterator[npt.NDArray[np.uint8]]:
        """The images of a column, each decoded when it is asked for."""
        for number, cell in enumerate(cells, 1):
            try:
                yield decode_image(read_cell(cell), self.classifier.depth)
            except UserError as error:
                raise UserError(f"Record {number} of {len(cells)}: {error}") from error


def read_cell(cell: Any) -> Image:
    """The image in one cell of the table.

    Raises:
        UserError: text that is neither base64 nor, where paths are allowed, a file; lists that are
            no pixels; or something else.
    """
    if isinstance(cell, list):
        return _read_lists(cell)
    if isinstance(cell, bytes | np.ndarray | Path):
        return cell
    if not isinstance(cell, str):
        raise UserError(f"{ONE_IMAGE}, not {json.dumps(cell, default=repr)[:80]}.")
    if SERVED not in os.environ and len(cell) < 4096 and Path(cell).is_file():
        return Path(cell)
    try:
        return base64.b64decode(cell, validate=True)
    except ValueError:  # of text outside ASCII it is not a binascii.Error
        served = (
            "A served model takes no paths." if SERVED in os.environ else "There is no such file."
        )
        raise UserError(f"The image {cell[:80]!r} is not base64. {served}") from None


def _read_lists(cell: list[Any]) -> npt.NDArray[np.uint8]:
    try:
        found = np.asarray(cell)
    except ValueError:
        raise UserError(f"{ONE_IMAGE}, not lists of unequal lengths.") from None
    if found.dtype.kind == "U" and found.ndim == 1:  # as MLflow reads {"inputs": {"image": [...]}}
        raise UserError(
            f'{ONE_IMAGE}, not a list of texts. Each image is a record: {{"dataframe_records": '
            f'[{{"{COLUMN}": ...}}, ...]}}.'
        )
    if found.dtype.kind not in "iuf" and found.size:
        raise UserError(f"{ONE_IMAGE}, not lists of something else.")
    if found.shape[2:] != (3,) or not found.size:
        raise UserError(f"{ONE_IMAGE}, not lists of shape {found.shape}.")
    if len(wrong := found[(found < 0) | (found > 255) | (found != np.floor(found))]):
        raise UserError(f"{ONE_IMAGE}, not {wrong[0]}.")
    return found.astype(np.uint8)


def _load_pyfunc(path: str) -> PyfuncModel:
    """Called by MLflow with the model's data folder."""
    return PyfuncModel(open_model(Path(path)))
