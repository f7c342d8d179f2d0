"""Classification metrics, as pure functions of arrays, computed by scikit-learn.

scikit-learn is imported in functions: predictions do without it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float32]  # N,C
Labels = npt.NDArray[np.int64]  # N

TOP = 5


def basic_metrics(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """Return accuracy, top5_accuracy, balanced_accuracy, macro_f1 and loss.

    The loss is the mean negative log likelihood. balanced_accuracy excludes classes without labels,
    and macro_f1 those without labels and predictions. top5_accuracy is 1 for up to five classes.

    Args:
        probabilities: N,C.
        labels: N class numbers.
    """
    from sklearn import metrics

    predicted = probabilities.argmax(axis=1)
    num_classes = probabilities.shape[1]
    classes = np.arange(num_classes)
    return {
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        "top5_accuracy": _top5_accuracy(probabilities, labels),
        "balanced_accuracy": float(
            metrics.recall_score(labels, predicted, average="macro", labels=np.unique(labels))
        ),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0.0)),
        "loss": float(metrics.log_loss(labels, _normalize(probabilities), labels=classes)),
    }


def _normalize(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """Return float64 rows that sum to 1: float32 rows do so only within 1e-6."""
    exact = probabilities.astype(np.float64)
    rows: npt.NDArray[np.float64] = exact / exact.sum(axis=1, keepdims=True)
    return rows


def _top5_accuracy(probabilities: Probabilities, labels: Labels) -> float:
    num_classes = probabilities.shape[1]
    if num_classes <= TOP:
        return 1.0
    from sklearn import metrics

    return float(
        metrics.top_k_accuracy_score(labels, probabilities, k=TOP, labels=np.arange(num_classes))
    )


def all_metrics(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """Return `basic_metrics`, and weighted_f1, brier, roc_auc and average_precision.

    roc_auc and average_precision are one-vs-rest means over the classes that have both positive and
    negative labels; they are omitted if there is no such class.

    Args:
        probabilities: N,C.
        labels: N class numbers.
    """
    from sklearn import metrics

    truth = np.eye(probabilities.shape[1])[labels]
    present = np.unique(labels)
    two_sided = [number for number in present if not truth[:, number].all()]
    exact = _normalize(probabilities)
    columns = [(truth[:, number], exact[:, number]) for number in two_sided]
    areas = {
        "roc_auc": [metrics.roc_auc_score(*column) for column in columns],
        "average_precision": [metrics.average_precision_score(*column) for column in columns],
    }
    predicted = probabilities.argmax(axis=1)
    return basic_metrics(probabilities, labels) | {
        "weighted_f1": float(
            metrics.f1_score(labels, predicted, average="weighted", zero_division=0.0)
        ),
        "brier": float(((exact - truth) ** 2).sum(axis=1).mean()),
        **{name: float(np.mean(values)) for name, values in areas.items() if values},
    }


def class_metrics(probabilities: Probabilities, labels: Labels) -> list[dict[str, float]]:
    """Return precision, recall, f1 and support of each class, in the order of class numbers.

    Undefined values are 0.
    """
    from sklearn import metrics

    classes = np.arange(probabilities.shape[1])
    columns = metrics.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=classes, zero_division=0.0
    )
    names = ("precision", "recall", "f1", "support")
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


def confusion_matrix(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.int64]:
    """Return C,C counts; rows are true classes, columns predicted classes."""
    from sklearn import metrics

    classes = np.arange(probabilities.shape[1])
    matrix: npt.NDArray[np.int64] = metrics.confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=classes
    )
    return matrix
