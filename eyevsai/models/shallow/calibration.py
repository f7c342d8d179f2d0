"""Calibration of scores to probabilities by cross-validation, without the valid split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.models.shallow.tensor_module import TensorModule

FOLDS = 3
RANGE = (1e-3, 1e3)  # search bounds of the factor

Fit = Callable[[npt.NDArray[np.intp]], Callable[[npt.NDArray[np.intp]], Tensor]]


class Temperature(TensorModule):
    """`softmax(factor * scores)`, which keeps the order of the classes (Guo et al. 2017)."""

    def forward(self, scores: Tensor) -> Tensor:
        """Return the N,C float32 probabilities of N,C float64 scores."""
        return torch.softmax(self.tensor("factor") * scores, dim=1).to(torch.float32)


def fit_temperature(fit: Fit, labels: npt.NDArray[np.int64], seed: int) -> Temperature:
    """Fit the factor that minimises the cross-entropy of out-of-fold scores.

    Args:
        fit: function that fits an estimator to the given rows, and returns a function from other
            rows to their N,C float64 scores.
        labels: N class numbers; each class has at least `FOLDS` rows.
        seed: seed of the assignment of rows to folds.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    scores = torch.zeros(len(labels), len(np.unique(labels)), dtype=torch.float64)
    for train_rows, rows in folds.split(labels, labels):
        scores[torch.from_numpy(rows)] = fit(train_rows)(rows)
    truth = torch.from_numpy(labels)

    def loss(power: float) -> float:
        return torch.nn.functional.cross_entropy(np.exp(power) * scores, truth).item()

    minimum = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded")
    return Temperature(factor=torch.tensor(np.exp(minimum.x), dtype=torch.float64))
