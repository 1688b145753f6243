"""Filters that weigh next to nothing, and norms that scale them to nothing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammainc


def is_near_zero(values: Float[np.ndarray, " filter"], share: float) -> Bool[np.ndarray, " filter"]:
    """Where a magnitude is at most `share` of the largest in its layer: everywhere if all are zero, never for NaN."""
    size = np.abs(values)
    known = size[np.isfinite(size)]
    if not known.size:
        return np.zeros(len(values), bool)
    return size <= share * known.max()


def expected_near_zero(norms: Float[np.ndarray, " filter"], cells: int, share: float) -> float:
    """How many of a layer's filters would be near zero if all weights were independent Gaussian of one variance.

    Squared norms then follow a chi-square distribution with as many degrees of freedom as a filter has weights; the
    variance is that of the filters which are not near zero.
    """
    well = norms[np.isfinite(norms) & ~is_near_zero(norms, share)]
    if not well.size:
        return float("nan")
    variance = (well**2).mean() / cells
    return float(len(norms) * gammainc(cells / 2, (share * well.max()) ** 2 / variance / 2))
