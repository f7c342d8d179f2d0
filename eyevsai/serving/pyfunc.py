"""MLflow pyfunc model, from a table with a column `image` to a table of predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.serving.classifier import Classifier, open_model
from eyevsai.serving.images import COLUMN, decode_cell

if TYPE_CHECKING:
    import pandas as pd

SERVED = "__pyfunc_model_path__"  # variable that MLflow's scoring server sets for its workers


class PyfuncModel:
    """Python model that `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return columns label, probability and probabilities for the rows of `model_input`.

        The column `image` contains the bytes of a file, the same in base64, an array H,W,3 uint8,
        nested lists of its values, or a path. A served model does not accept paths: its clients
        could read files of the server.

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
        paths = SERVED not in os.environ
        for number, cell in enumerate(cells, 1):
            try:
                yield decode_cell(cell, self.classifier.depth, paths=paths)
            except UserError as error:
                raise UserError(f"Record {number} of {len(cells)}: {error}") from error


def _load_pyfunc(path: str) -> PyfuncModel:
    """Return the model in a data folder. MLflow calls this function by its name."""
    return PyfuncModel(open_model(Path(path)))
