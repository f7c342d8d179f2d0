"""From scores to probabilities that can be believed, without a look at the valid split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.models.shallow.tensor_module import TensorModule

FOLDS = 3
RANGE = (1e-3, 1e3)  # of the factor

Fit = Callable[[npt.NDArray[np.intp]], Callable[[npt.NDArray[np.intp]], Tensor]]


class Temperature(TensorModule):
    """`softmax(factor * scores)`: the order of classes stays, how sure they are is learned (Guo et
    al. 2017).
    """

    def forward(self, scores: Tensor) -> Tensor:
        """N,C float64 -> N,C float32."""
        return torch.softmax(self.tensor("factor") * scores, dim=1).to(torch.float32)


def fit_temperature(fit: Fit, labels: npt.NDArray[np.int64], seed: int) -> Temperature:
    """The factor under which each third of the data is most probable to the estimator of the other
    two.

    `fit(rows)` fits to some rows and gives a function from other rows to their scores.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.model_selection import StratifiedKFold

    held_out = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    scores = torch.zeros(len(labels), len(np.unique(labels)), dtype=torch.float64)
    for others, rows in held_out.split(labels, labels):
        scores[torch.from_numpy(rows)] = fit(others)(rows)
    truth = torch.from_numpy(labels)

    def loss(power: float) -> float:
        return torch.nn.functional.cross_entropy(np.exp(power) * scores, truth).item()

    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded")
    return Temperature(factor=torch.tensor(np.exp(found.x), dtype=torch.float64))
