"""MLflow's generic model: a table with a column `image` in, a table of predictions out."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eyevsai.errors import UserError
from eyevsai.serving.classifier import Classifier, Image, open_model

if TYPE_CHECKING:
    import pandas as pd

SERVED = "__pyfunc_model_path__"  # MLflow's scoring server sets it for its workers
COLUMN = "image"


class PyfuncModel:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Columns label, probability and probabilities for each row of the column `image`.

        An image is the bytes of a file, those in base64, H,W,3 uint8, or, except over HTTP, a path.

        Raises:
            UserError: no such column, or an image that is none of these; where it is served, as an MLflow error, whose
                text its server sends back.
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
            raise UserError(f"The input is a table with a column {COLUMN!r}; this one has {list(columns)}.")
        predictions = self.classifier.predict_batch([read_cell(cell) for cell in model_input[COLUMN]])
        return pd.DataFrame([vars(prediction) for prediction in predictions], index=model_input.index)


def read_cell(cell: Any) -> Image:
    """The image in one cell of the table.

    Raises:
        UserError: text that is neither base64 nor, where paths are allowed, a file.
    """
    if isinstance(cell, list):
        return np.asarray(cell, dtype=np.uint8)
    if not isinstance(cell, str):
        image: Image = cell
        return image
    if SERVED not in os.environ and len(cell) < 4096 and Path(cell).is_file():
        return Path(cell)
    try:
        return base64.b64decode(cell, validate=True)
    except binascii.Error:
        served = " A served model takes no paths." if SERVED in os.environ else " There is no such file."
        raise UserError(f"The image {cell[:80]!r} is not base64.{served}") from None


def _load_pyfunc(path: str) -> PyfuncModel:
    """Called by MLflow with the model's data folder."""
    return PyfuncModel(open_model(Path(path)))
