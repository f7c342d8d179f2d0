"""Share of each class among images without labels (black-box shift estimation, BBSE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.metrics import Labels
from eyevsai.evaluation.windows import check_probabilities

# singular values of A, relative to the largest, below which classes are indistinguishable
_SINGULAR = 1e-4
_SUM_WEIGHT = 1e3  # of the equation "the shares add up to 1" against one equation of a class


@dataclass(frozen=True)
class LabelShift:
    """Estimated class shares of a window, compared with those of the reference.

    All have the C classes in the order of the model. `errors` are standard errors of `shares`. A
    class without images in the reference has the share and error NaN: its share cannot be
    estimated, and images of it count for other classes.
    """

    classes: tuple[str, ...]
    reference_shares: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]

    @property
    def distance(self) -> float:
        """Total variation distance of the shares, 0..1."""
        return 0.5 * float(np.nansum(np.abs(self.shares - self.reference_shares)))

    @property
    def distance_error(self) -> float:
        """Expected total variation distance without any shift, from the errors alone, 0..1."""
        return min(1.0, 0.5 * math.sqrt(2 / math.pi) * float(np.nansum(self.errors)))


class LabelShiftEstimator:
    """Estimation of the class shares of windows, if only they differ from those of one reference.

    BBSE (Lipton, Wang, Smola 2018) assumes that images of a class look the same in both. With the
    mean probabilities A[i, j] of class i over the reference images of class j, and the mean
    probabilities m of the window, the shares q solve A q = m; here by least squares with q >= 0 and
    sum(q) = 1. The standard errors follow from the sampling errors of A and m by the delta method,
    without these two constraints, which makes them too large rather than too small. For classes
    that the model cannot distinguish, they are of the order of 1.

    With few reference images per class, the errors are too large to correct predictions by the
    shares: with 14 images per class (vegetables of `benchmarks.drift_photographs`, windows of 200),
    the total variation distance without any shift is 0.06 on average.

    Args:
        reference: N,C probabilities of the reference.
        labels: N class numbers of the reference.
        classes: names of the C classes.

    Raises:
        UserError: there are too few images, another number of classes, or values that are no
            probabilities.
    """

    def __init__(
        self, reference: npt.NDArray[np.floating], labels: Labels, classes: Sequence[str]
    ) -> None:
        self._classes = tuple(classes)
        values = check_probabilities(reference, len(classes), "the reference").astype(np.float64)
        counts = np.bincount(labels, minlength=len(classes))
        self._shares = counts / len(labels)
        self._present = np.flatnonzero(counts)
        self._means = np.stack([values[labels == each].mean(axis=0) for each in self._present], 1)
        rows, scales, columns = np.linalg.svd(self._means, full_matrices=False)
        is_known = scales > _SINGULAR * scales[0]
        self._inverse = (columns[is_known].T / scales[is_known]) @ rows[:, is_known].T
        self._unknown = (columns[~is_known] ** 2).sum(axis=0)
        # variances P,P of the shares by the sampling error of A[:, j], per square of the share j
        projected = values @ self._inverse.T
        self._variances = np.stack(
            [_variance_of_mean(projected, labels == each) for each in self._present], axis=1
        )

    def estimate(self, window: npt.NDArray[np.floating]) -> LabelShift:
        """Return the estimated class shares of a window.

        Args:
            window: M,C probabilities of the window.

        Raises:
            UserError: there are too few images, another number of classes, or values that are no
                probabilities.
        """
        from scipy.optimize import nnls

        size = len(self._classes)
        values = check_probabilities(window, size, "the window").astype(np.float64)
        equations = np.vstack([self._means, np.full(len(self._present), _SUM_WEIGHT)])
        solution, _ = nnls(equations, np.append(values.mean(axis=0), _SUM_WEIGHT))
        variances = self._variances @ solution**2 + self._unknown
        variances += _variance_of_mean(values @ self._inverse.T, np.full(len(values), True))
        shares, errors = (np.full(size, np.nan) for _ in range(2))
        shares[self._present], errors[self._present] = solution, np.sqrt(variances.clip(0, 1))
        return LabelShift(self._classes, self._shares, shares, errors)


def _variance_of_mean(
    values: npt.NDArray[np.float64], members: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the sampling variances of the means of N,P values over the rows that are `members`."""
    count = int(members.sum())
    # of one row, the variance is unknown: that of all rows is an upper bound
    sample = values[members] if count > 1 else values
    variances: npt.NDArray[np.float64] = sample.var(axis=0, ddof=1) / count
    return variances


def estimate_label_shift(
    reference: npt.NDArray[np.floating],
    labels: Labels,
    window: npt.NDArray[np.floating],
    classes: Sequence[str],
) -> LabelShift:
    """Estimate the class shares of one window by `LabelShiftEstimator`.

    Args:
        reference: N,C probabilities of the reference.
        labels: N class numbers of the reference.
        window: M,C probabilities of the window.
        classes: names of the C classes.

    Raises:
        UserError: reference or window has too few images, another number of classes, or values
            that are no probabilities.
    """
    return LabelShiftEstimator(reference, labels, classes).estimate(window)
