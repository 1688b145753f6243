"""Who is a neighbor of many, who of nobody, and who lies far from all."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int


def occurrences(index: Int[np.ndarray, "image neighbor"]) -> Int[np.ndarray, " image"]:
    """How many images have each image among their neighbors; the N_k of radovanovic2010."""
    return np.bincount(index[index >= 0], minlength=len(index)).astype(np.int32)


def skewness(value: Int[np.ndarray, " image"]) -> float:
    """Third central moment over the third power of the standard deviation (radovanovic2010, eq. 1).

    Parameters
    ----------
    value
        Counts; NaN comes back where they are all equal or there are none.
    """
    if not len(value):
        return math.nan
    centred = value - value.mean(dtype=np.float64)
    spread = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean()) / spread**3 if spread else math.nan


def outlying(distance: Float[np.ndarray, " image"]) -> tuple[Bool[np.ndarray, " image"], float]:
    """Images whose k-th neighbor is beyond Tukey's outer fence, and the fence (ramaswamy2000, tukey1977).

    Parameters
    ----------
    distance
        Of each image to its k-th neighbor; NaN for none.

    Returns
    -------
    tuple
        The fence is the third quartile plus three times the distance between the quartiles (linear between ranks);
        NaN for fewer than four images.
    """
    known = distance[~np.isnan(distance)].astype(np.float64)
    if len(known) < 4:
        return np.zeros(len(distance), bool), math.nan
    low, high = np.quantile(known, [0.25, 0.75])
    fence = float(high + 3 * (high - low))
    return distance > fence, fence
