"""Standardisation and dimensionality reduction between features and estimator."""

from __future__ import annotations

import logging

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


def fit_projection(settings: ShallowSettings, features: Array, seed: int) -> Projection:
    """Fit the projection to N,D features.

    Logs a warning and uses fewer components if the data do not allow `settings.components`.

    Args:
        settings: standardisation, reduction and number of components.
        features: N,D features of the train split.
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
    tensors = {"mean": torch.from_numpy(mean), "scale": torch.from_numpy(scale)}
    if settings.reduction == "none":
        return Projection(**tensors)
    axes, center = _fit_axes(settings, scaler.transform(features), seed)
    tensors["mean"] = tensors["mean"] + torch.from_numpy(center) / tensors["scale"]
    return Projection(**tensors, axes=torch.from_numpy(np.ascontiguousarray(axes.T)))


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
