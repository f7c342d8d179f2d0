"""How good predictions are: pure functions of arrays, computed by scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn import metrics

Probabilities = npt.NDArray[np.float32]  # N,C
Labels = npt.NDArray[np.int64]  # N


def score(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """accuracy, top5_accuracy, balanced_accuracy, macro_f1 and loss (mean negative log likelihood)."""
    predicted = probabilities.argmax(axis=1)
    num_classes = probabilities.shape[1]
    classes = np.arange(num_classes)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # float32 rows add up to 1 within 1e-6 only
    ranks = (probabilities > probabilities[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    return {
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        "top5_accuracy": float((ranks < 5).mean()),
        "balanced_accuracy": float(metrics.recall_score(labels, predicted, average="macro", labels=np.unique(labels))),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", labels=classes, zero_division=0.0)),
        "loss": float(metrics.log_loss(labels, exact, labels=classes)),
    }


def confusion(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.int64]:
    """C,C counts; rows are the true classes, columns the predicted ones."""
    classes = np.arange(probabilities.shape[1])
    matrix: npt.NDArray[np.int64] = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes)
    return matrix
