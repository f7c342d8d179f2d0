"""Random forests (Breiman 2001)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.models.shallow.settings import ForestSettings
from eyevsai.models.shallow.tensor_module import TensorModule

# added to shares of votes before the logarithm: a class without votes is not impossible
FLOOR = 0.01
# distance from a threshold of scikit-learn to ours, larger than the rounding errors of features
MARGIN = 1e-5
LEADING_COMPONENTS = 50  # which the trees split besides the discriminants


class Forest(TensorModule):
    """Random forest with the nodes of all trees in one table; a leaf is its own child.

    `distributions` has the distinct class distributions of the leaves, few because most leaves are
    pure; `leaf` maps each node to a row of it. The trees split `inputs @ axes`, or
    `inputs` if there are no axes.
    """

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__(**tensors)
        if "threshold" in tensors:
            self.register_buffer("border", _round_down(tensors["threshold"]), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores: N,K float64 -> N,C float64, the logarithms of `votes` plus `FLOOR`."""
        return torch.log(self.votes(inputs) + FLOOR)

    def votes(self, inputs: Tensor) -> Tensor:
        """Return the mean class distribution over trees: N,K float64 -> N,C float64.

        Equals scikit-learn's `predict_proba`.
        """
        if "axes" in self._buffers:
            inputs = inputs @ self.tensor("axes")
        # As scikit-learn's trees do, compare features in float32 with thresholds in float64: for
        # such features, a threshold rounded down is the same border. Without float64 here, old
        # runtimes cannot remove the rounding of the features as a redundant pair of casts.
        narrow = inputs.to(torch.float32)
        feature, border = self.tensor("feature"), self.tensor("border")
        branches = self.tensor("branches")  # M,2: child if feature <= threshold, else
        nodes = self.tensor("roots").expand(inputs.shape[0], -1)
        # Take one step of trees without splits, too: an exported graph has to use its input.
        for _ in range(max(1, self.numbers["depth"])):
            larger = narrow.gather(1, feature[nodes].to(torch.int64)) > border[nodes]
            nodes = branches[nodes, larger.to(torch.int64)].to(torch.int64)
        return self.tensor("distributions")[self.tensor("leaf")[nodes].to(torch.int64)].mean(1)


def _separate_thresholds(
    thresholds: npt.NDArray[np.float64],
    feature: npt.NDArray[np.int32],
    inputs: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Move each threshold by `MARGIN`: up, or down if the next larger training value is that close.

    scikit-learn's thresholds are midpoints of two training values. Features are shares of pixels,
    hence other images often have exactly the midpoint, and their branch would depend on the
    rounding of each runtime. No image of the train split changes its branch: a threshold moves at
    most half the distance to the next training value.
    """
    moved = thresholds.copy()
    for column in np.unique(feature):
        nodes = np.flatnonzero(feature == column)
        values = np.sort(inputs[:, column].astype(np.float32)).astype(np.float64)
        values = np.concatenate([[-np.inf], values, [np.inf]])
        place = np.searchsorted(values, thresholds[nodes], side="right")
        below = (thresholds[nodes] - values[place - 1]) / 2
        above = (values[place] - thresholds[nodes]) / 2
        moved[nodes] += np.where(
            above < MARGIN / 2, -np.minimum(MARGIN, below), np.minimum(MARGIN, above)
        )
    return moved


def _round_down(values: Tensor) -> Tensor:
    """Return the largest float32 values that do not exceed the float64 `values`."""
    nearest = values.to(torch.float32)
    below = torch.nextafter(nearest, torch.tensor(-torch.inf))
    return torch.where(nearest > values, below, nearest)


def fit_forest(
    settings: ForestSettings,
    inputs: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    *,
    seed: int,
    threads: int,
) -> Forest:
    """Fit scikit-learn's `RandomForestClassifier`, and convert it with thresholds off ties.

    With a `settings.discriminant_shrinkage`, the trees split the leading components and the linear
    discriminants of the classes (Fisher 1936, Rao 1948), which are fitted to the same rows.

    Args:
        settings: number and size of the trees, and their inputs.
        inputs: N,K projected features.
        labels: N class numbers.
        weights: N sample weights.
        seed: seed of the bootstrap samples and the feature subsets.
        threads: trees that are fitted in parallel.
    """
    from sklearn.ensemble import RandomForestClassifier

    axes = _fit_discriminants(settings, inputs, labels)
    if axes is not None:
        inputs = inputs @ axes
    estimator = RandomForestClassifier(
        settings.n_estimators,
        max_depth=settings.max_depth,
        min_samples_leaf=settings.min_samples_leaf,
        random_state=seed % 2**32,
        n_jobs=threads,
    )
    estimator.fit(inputs, labels, sample_weight=weights)
    tensors = read_forest(estimator).state_dict()
    tensors["threshold"] = torch.from_numpy(
        _separate_thresholds(tensors["threshold"].numpy(), tensors["feature"].numpy(), inputs)
    )
    if axes is not None:
        tensors["axes"] = torch.from_numpy(axes)
    return Forest(**tensors)


def _fit_discriminants(
    settings: ForestSettings, inputs: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64] | None:
    """Return the K,A axes of the trees' inputs; None if the trees split the inputs themselves."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    shrinkage = settings.discriminant_shrinkage
    if shrinkage is None or settings.reduction == "none" or not inputs.var(0).any():
        return None
    analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
    analysis.fit(inputs, labels)
    most = min(len(np.unique(labels)) - 1, inputs.shape[1])
    leading = np.eye(inputs.shape[1])[:, :LEADING_COMPONENTS]
    return np.concatenate([leading, analysis.scalings_[:, :most]], axis=1)


def read_forest(estimator: Any) -> Forest:
    """Convert a fitted `RandomForestClassifier` with one output."""
    trees = [each.tree_ for each in estimator.estimators_]
    counts = np.array([tree.node_count for tree in trees])
    roots = np.cumsum(counts) - counts
    numbers = [np.arange(count) for count in counts]
    sides = [(tree.children_left, tree.children_right) for tree in trees]
    children = np.concatenate(
        [
            np.stack([np.where(side < 0, number, side) for side in pair], 1) + root
            for pair, number, root in zip(sides, numbers, roots, strict=True)
        ]
    )
    values = np.concatenate([tree.value[:, 0, :] for tree in trees])
    is_leaf = np.concatenate([tree.children_left < 0 for tree in trees])
    distributions, rows = np.unique(values[is_leaf], axis=0, return_inverse=True)
    leaf = np.zeros(len(values), dtype=np.int32)
    leaf[is_leaf] = rows
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
