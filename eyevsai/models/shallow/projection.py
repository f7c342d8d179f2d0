"""From features to what an estimator sees: standardised, in fewer dimensions."""

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
    """`(features - mean) * scale`, then `@ axes` if there are axes; in float64."""

    def forward(self, features: Tensor) -> Tensor:
        """N,D float32 -> N,K float64."""
        centered = (features.to(torch.float64) - self.tensor("mean")) * self.tensor("scale")
        return centered @ self.tensor("axes") if "axes" in self._buffers else centered


def fit_projection(settings: ShallowSettings, features: Array, seed: int) -> Projection:
    """Learns the projection from N,D features; components beyond what they allow are left out,
    which is said.
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
    """K,D axes and the D centre that they are taken from."""
    from sklearn.decomposition import PCA, TruncatedSVD

    components = min(settings.components, *(side - 1 for side in scaled.shape))
    if components < settings.components:
        log.warning(
            "--components %d is more than %d images of %d features allow: taking %d.",
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
