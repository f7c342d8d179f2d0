"""Upper tail of the incomplete beta function, as a logarithm that never underflows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# below this, scipy's tail is close to the smallest float64, and its logarithm is inexact
_SMALLEST_TAIL = 1e-280
_FRACTION_TOLERANCE = 1e-14
_FRACTION_TERMS = 100_000


def log_beta_tail(
    a: npt.ArrayLike, b: npt.ArrayLike, lower: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return the logarithm of the integral of p^(a - 1) (1 - p)^(b - 1) from `lower` to 1.

    Args:
        a: positive parameters.
        b: positive parameters.
        lower: lower bounds in (0, 1).

    Returns:
        float64, in the shape to which the arguments broadcast.
    """
    from scipy.special import betaincc, betaln

    arrays = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (a, b, lower)))
    tail = betaincc(*arrays)
    is_small = tail < _SMALLEST_TAIL
    result = np.asarray(betaln(*arrays[:2]) + np.log(np.where(is_small, 1.0, tail)))
    if is_small.any():
        result[is_small] = _log_small_tail(*(each[is_small] for each in arrays))
    return result


def _log_small_tail(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], lower: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return `log_beta_tail` by a continued fraction of which all terms are of moderate size.

    With x = 1 - lower, the integral is lower^a x^b / (b (1 + d_1 / (1 + d_2 / (1 + ...)))), where
    d_(2m) = m (a - m) x / ((b + 2m - 1) (b + 2m)) and
    d_(2m+1) = -(b + m) (a + b + m) x / ((b + 2m) (b + 2m + 1)) (DLMF 8.17.22). It converges fast
    in a small tail, where lower > a / (a + b). Evaluated by Lentz's method.
    """
    x = 1.0 - lower
    tiny = np.finfo(np.float64).tiny
    c, d = np.ones_like(x), np.zeros_like(x)
    fraction = np.ones_like(x)
    for term in range(1, _FRACTION_TERMS):
        m = term // 2
        if term % 2:
            value = -(b + m) * (a + b + m) * x / ((b + 2 * m) * (b + 2 * m + 1))
        else:
            value = m * (a - m) * x / ((b + 2 * m - 1) * (b + 2 * m))
        d = 1.0 + value * d
        d = 1.0 / np.where(np.abs(d) < tiny, tiny, d)
        c = 1.0 + value / c
        c = np.where(np.abs(c) < tiny, tiny, c)
        fraction *= c * d
        if np.all(np.abs(c * d - 1.0) < _FRACTION_TOLERANCE):
            break
    result: npt.NDArray[np.float64] = (
        a * np.log(lower) + b * np.log(x) - np.log(b) - np.log(fraction)
    )
    return result
