"""Permutation importance (Breiman 2001) of groups of features."""

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
    """Return the mean decrease of accuracy when a group of features is shuffled between images.

    It is negative if shuffling increases accuracy.

    Args:
        learner: trained learner with feature groups.
        features: N,D features of the images.
        labels: class indices of the images.
        seed: seed of the permutations, of which each group has `REPEATS`.

    Returns:
        The decrease, as a fraction from -1 to 1, by the name of the group.
    """
    baseline = _accuracy(learner, features, labels)
    importance = {}
    for name, columns in learner.feature_groups().items():
        random = np.random.default_rng(derive_seed(seed, "importance", name))
        decreases = []
        for _ in range(REPEATS):
            shuffled = features.copy()
            shuffled[:, columns] = features[random.permutation(len(features)), columns]
            decreases.append(baseline - _accuracy(learner, shuffled, labels))
        importance[name] = float(np.mean(decreases))
    return importance


def _accuracy(learner: FeatureLearner, features: npt.NDArray[np.float32], labels: Labels) -> float:
    return float((learner.predict_features(features).argmax(axis=1) == labels).mean())
