"""Which features a model leans on: permutation importance (Breiman 2001), by group of features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eyevsai.data.seeding import derive_seed
from eyevsai.evaluation.metrics import Labels
from eyevsai.models.learner import FeatureLearner

REPEATS = 5


def permutation_importance(
    learner: FeatureLearner, features: npt.NDArray[np.float32], labels: Labels, seed: int
) -> dict[str, float]:
    """How much accuracy falls, on average, when a group of columns of N,D features is shuffled
    between images.
    """
    whole = _accuracy(learner, features, labels)
    importance = {}
    for name, columns in learner.feature_groups().items():
        random = np.random.default_rng(derive_seed(seed, "importance", name))
        falls = []
        for _ in range(REPEATS):
            shuffled = features.copy()
            shuffled[:, columns] = features[random.permutation(len(features)), columns]
            falls.append(whole - _accuracy(learner, shuffled, labels))
        importance[name] = float(np.mean(falls))
    return importance


def _accuracy(learner: FeatureLearner, features: npt.NDArray[np.float32], labels: Labels) -> float:
    return float((learner.predict_features(features).argmax(axis=1) == labels).mean())
