"""Random forests (Breiman 2001)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.models.shallow.settings import ForestSettings
from eyevsai.models.shallow.tensor_module import TensorModule

# what is added to a share of votes before its logarithm is taken: no vote is not impossible
FLOOR = 0.01


class Forest(TensorModule):
    """All trees in one table of nodes; a leaf is its own child.

    `distributions` are the shares of classes that leaves have, each kept once: most leaves are
    pure.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """N,K float64 -> N,C float64: logarithms of the mean shares of classes in the leaves."""
        return torch.log(self.votes(inputs) + FLOOR)

    def votes(self, inputs: Tensor) -> Tensor:
        """N,K float64 -> N,C float64: what scikit-learn's `predict_proba` gives."""
        narrow = inputs.to(torch.float32).to(torch.float64)  # as scikit-learn's trees see them
        feature, threshold = self.tensor("feature"), self.tensor("threshold")
        branches = self.tensor("branches")  # M,2: not larger, larger
        nodes = self.tensor("roots").expand(inputs.shape[0], -1)
        for _ in range(self.numbers["depth"]):
            larger = narrow.gather(1, feature[nodes].to(torch.int64)) > threshold[nodes]
            nodes = branches[nodes, larger.to(torch.int64)].to(torch.int64)
        return self.tensor("distributions")[self.tensor("leaf")[nodes].to(torch.int64)].mean(1)


def fit_forest(
    settings: ForestSettings,
    inputs: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    *,
    seed: int,
    threads: int,
) -> Forest:
    """Fits scikit-learn's `RandomForestClassifier` to N,K inputs."""
    from sklearn.ensemble import RandomForestClassifier

    estimator = RandomForestClassifier(
        settings.n_estimators,
        max_depth=settings.max_depth,
        min_samples_leaf=settings.min_samples_leaf,
        random_state=seed % 2**32,
        n_jobs=threads,
    )
    estimator.fit(inputs, labels, sample_weight=weights)
    return read_forest(estimator)


def read_forest(estimator: Any) -> Forest:
    """The tables of a fitted `RandomForestClassifier`."""
    trees = [each.tree_ for each in estimator.estimators_]
    counts = np.array([tree.node_count for tree in trees])
    roots = np.cumsum(counts) - counts
    own = [np.arange(count) for count in counts]
    sides = [(tree.children_left, tree.children_right) for tree in trees]
    children = np.concatenate(
        [
            np.stack([np.where(side < 0, node, side) for side in pair], 1) + root
            for pair, node, root in zip(sides, own, roots, strict=True)
        ]
    )
    values = np.concatenate([tree.value[:, 0, :] for tree in trees])
    is_leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    distributions, number = np.unique(values[is_leaf], axis=0, return_inverse=True)
    leaf = np.zeros(len(values), dtype=np.int32)
    leaf[is_leaf] = number
    return Forest(
        roots=torch.from_numpy(roots),
        branches=torch.from_numpy(children.astype(np.int32)),
        feature=torch.from_numpy(
            np.concatenate([tree.feature for tree in trees]).clip(0).astype(np.int32)
        ),
        threshold=torch.from_numpy(np.concatenate([tree.threshold for tree in trees])),
        leaf=torch.from_numpy(leaf),
        distributions=torch.from_numpy(distributions),
        depth=torch.tensor(max(tree.max_depth for tree in trees)),
    )
