"""Standardisation and dimensionality reduction between features and estimator."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.models.shallow.settings import ShallowSettings
from eyevsai.models.shallow.tensor_module import TensorModule

log = logging.getLogger("eyevsai")

Array = npt.NDArray[np.float32]


class Projection(TensorModule):
    """`(features - mean) * scale`, then `@ axes` if dimensions are reduced; in float64."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the projections: N,D float32 -> N,K float64."""
        centered = (features.to(torch.float64) - self.tensor("mean")) * self.tensor("scale")
        return centered @ self.tensor("axes") if "axes" in self._buffers else centered


def fit_projection(
    settings: ShallowSettings, features: Array, groups: Mapping[str, slice], seed: int
) -> Projection:
    """Fit the projection to N,D features.

    Logs a warning and uses fewer components if the data do not allow `settings.components`.

    Args:
        settings: standardisation, reduction and number of components.
        features: N,D features of the train split.
        groups: columns of each group of features.
        seed: seed of the randomised solvers.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=settings.standardize, with_std=settings.standardize).fit(
        features
    )
    dimensions = features.shape[1]
    mean = (
        np.zeros(dimensions) if scaler.mean_ is None or not settings.standardize else scaler.mean_
    )
    scale = np.ones(dimensions) if scaler.scale_ is None else 1 / scaler.scale_
    scaled: Array = scaler.transform(features)
    if settings.balance:
        factors = _balance(scaled, groups)
        scale = scale * factors
        scaled *= factors.astype(np.float32)
    tensors = {"mean": torch.from_numpy(mean), "scale": torch.from_numpy(scale)}
    if settings.reduction == "none":
        return Projection(**tensors)
    axes, center = _fit_axes(settings, scaled, seed)
    tensors["mean"] = tensors["mean"] + torch.from_numpy(center) / tensors["scale"]
    return Projection(**tensors, axes=torch.from_numpy(np.ascontiguousarray(axes.T)))


def _balance(scaled: Array, groups: Mapping[str, slice]) -> npt.NDArray[np.float64]:
    """Return a factor for each column that gives each group the same total variance.

    The total of all groups remains.
    """
    variances = scaled.var(0, dtype=np.float64)
    factors = np.ones(len(variances))
    totals = {name: float(variances[columns].sum()) for name, columns in groups.items()}
    varied = {name: total for name, total in totals.items() if total > 0}
    for name, total in varied.items():
        factors[groups[name]] = np.sqrt(sum(varied.values()) / len(varied) / total)
    return factors


def _fit_axes(
    settings: ShallowSettings, scaled: Array, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the K,D axes and the D centre to subtract before the projection (0 for SVD)."""
    from sklearn.decomposition import PCA, TruncatedSVD

    components = min(settings.components, *(side - 1 for side in scaled.shape))
    if components < settings.components:
        log.warning(
            "--components %d exceeds what %d images of %d features allow. Using %d.",
            settings.components,
            *scaled.shape,
            components,
        )
    exact = scaled.astype(np.float64)
    if settings.reduction == "svd":
        svd = TruncatedSVD(components, random_state=seed % 2**32).fit(exact)
        return svd.components_, np.zeros(scaled.shape[1])
    pca = PCA(components, svd_solver="randomized", random_state=seed % 2**32).fit(exact)
    return pca.components_, pca.mean_
