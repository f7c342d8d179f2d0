"""Bags of visual words: descriptors of blocks, assigned to the words of a codebook."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

COMPONENTS = 24  # dimensions of a descriptor in which words are compared
VARIANCE_POWER = 0.5  # exponent of the variances of the components: 1 is PCA, 0 whitening
VARIANCE_FLOOR = 1e-3  # of the largest variance: components below it are not scaled up further
SOFTNESS = 1.5  # logit by which the nearest word leads the second, for the median descriptor
SHARE_STEPS = 2**14  # shares are rounded to multiples of its inverse
ITERATIONS = 30  # of k-means
SAMPLE = 15_000  # descriptors to which a codebook is fitted
SEED = 0


class VisualWords(nn.Module):
    """Shares of visual words in the whole image and in its quarters.

    Each descriptor is shared among the words by its distances to them, a soft assignment
    (van Gemert et al. 2010), and shares are averaged over the grids of a spatial pyramid
    (Csurka et al. 2004, Lazebnik et al. 2006). Quarters share the middle row and column if the
    number of blocks is odd.

    `describe` is a module with results N,blocks,blocks,D and the attributes `blocks`, at least 3,
    and `dimensions`. `weight` (D,words) and `bias` (words) are the codebook: 0 before it is fitted.
    """

    def __init__(self, describe: nn.Module, words: int) -> None:
        super().__init__()
        self.describe = describe
        blocks = int(describe.blocks)  # type: ignore[arg-type]
        self.quarter, self.stride = (blocks + 1) // 2, blocks // 2
        self.dimensions = 5 * words
        rows = int(describe.dimensions)  # type: ignore[arg-type]
        self.register_buffer("weight", torch.zeros(rows, words))
        self.register_buffer("bias", torch.zeros(words))

    def forward(self, *pixels: Tensor) -> Tensor:
        """Return shares N,5*words float32, of the whole image first; `pixels` are for `describe`.

        Shares are rounded to multiples of 2**-14, since runtimes round sums differently, and trees
        would split between two roundings of one share.
        """
        weight: Tensor = self.weight  # type: ignore[assignment]
        logits = self.describe(*pixels) @ weight + self.bias
        shares = torch.softmax(logits, dim=3).permute(0, 3, 1, 2)
        quarters = nn.functional.avg_pool2d(shares, self.quarter, self.stride)
        grids = [shares.mean((2, 3)), quarters.permute(0, 2, 3, 1).flatten(1)]
        return torch.floor(torch.cat(grids, dim=1) * SHARE_STEPS + 0.5) / SHARE_STEPS


def fit_codebook(descriptors: npt.NDArray[np.float32], words: int) -> tuple[Tensor, Tensor]:
    """Fit `weight` and `bias` of `VisualWords` to N,D descriptors; N is at least `words`.

    The words are centres of k-means among principal components. Softmax of `descriptor @ weight +
    bias` is that of the negative squared distances to the centres, scaled by `SOFTNESS`. The fit
    has a seed of its own, so that models of all seeds use the same cached features.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    exact = descriptors.astype(np.float64)
    deviations = exact.std(0)
    scales = 1 / np.maximum(deviations, max(VARIANCE_FLOOR * float(deviations.max()), 1e-6))
    with np.errstate(invalid="ignore"):  # the share of variance of constant descriptors
        pca = PCA(min(COMPONENTS, *exact.shape), svd_solver="full").fit(exact * scales)
    variances = pca.explained_variance_
    variances = np.maximum(variances, max(VARIANCE_FLOOR * float(variances.max()), 1e-6))
    axes = (pca.components_ * scales).T * variances ** (-(1 - VARIANCE_POWER) / 2)
    offset = (pca.mean_ / scales) @ axes
    inputs = exact @ axes - offset
    # several threads sum in no fixed order
    with threadpool_limits(1), warnings.catch_warnings():
        # fewer distinct descriptors than words: some words are the same, which does no harm
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(words, n_init=1, max_iter=ITERATIONS, random_state=SEED).fit(inputs)
    centers = kmeans.cluster_centers_
    distances = np.sort(kmeans.transform(inputs) ** 2, axis=1)
    gap = float(np.median(distances[:, 1] - distances[:, 0]))
    factor = SOFTNESS / max(gap, VARIANCE_FLOOR * float(distances[:, 1].mean()), 1e-6)
    weight = 2 * factor * (axes @ centers.T)
    bias = -factor * ((centers**2).sum(1) + 2 * centers @ offset)
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
