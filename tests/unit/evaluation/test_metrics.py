from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from eyevsai.evaluation.metrics import basic_metrics, confusion_matrix
from eyevsai.explanation.top_losses import top_losses

RANDOM = np.random.default_rng(0)
PROBABILITIES = RANDOM.dirichlet(np.ones(8), 200).astype(np.float32)
LABELS = RANDOM.integers(0, 7, 200)  # class 7 never occurs


def test_scores_are_scikit_learns() -> None:
    scores = basic_metrics(PROBABILITIES, LABELS)
    predicted = PROBABILITIES.argmax(1)
    assert scores["accuracy"] == metrics.accuracy_score(LABELS, predicted)
    assert scores["top5_accuracy"] == metrics.top_k_accuracy_score(
        LABELS, PROBABILITIES, k=5, labels=range(8)
    )
    assert scores["balanced_accuracy"] == pytest.approx(
        np.mean([(predicted[c == LABELS] == c).mean() for c in range(7)])
    )
    assert scores["loss"] == pytest.approx(
        -np.log(PROBABILITIES[np.arange(200), LABELS]).mean(), rel=1e-5
    )


def test_confusion_counts_every_image_once() -> None:
    matrix = confusion_matrix(PROBABILITIES, LABELS)
    assert matrix.shape == (8, 8)
    assert matrix.sum() == 200
    assert np.trace(matrix) == (PROBABILITIES.argmax(1) == LABELS).sum()


def test_the_worst_mistakes_are_wrong_and_the_surest_come_first() -> None:
    mistakes = top_losses(PROBABILITIES, LABELS, 10)
    assert len(mistakes) == 10
    assert all(mistake.predicted != mistake.truth == LABELS[mistake.index] for mistake in mistakes)
    sureness = [mistake.probability for mistake in mistakes]
    assert sureness == sorted(sureness, reverse=True)
    wrong = PROBABILITIES.argmax(1) != LABELS
    assert sureness[0] == pytest.approx(PROBABILITIES.max(1)[wrong].max())
