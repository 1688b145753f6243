"""How widely a gradient lies over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

#: A place counts as looked at from this share of the strongest on; below lies what rounding leaves.
FLOOR = 1e-6


def profile(weight: np.ndarray, axis: int) -> np.ndarray:
    """Share of all weight at each place along one axis ``(place,)``; NaN where there is none."""
    along = weight.sum(axis=tuple(other for other in range(weight.ndim) if other != axis))
    total = along.sum()
    return along / total if total > 0 else np.full(along.shape, np.nan)


def spread(weight: Float[np.ndarray, "*space"]) -> tuple[Float[np.ndarray, " axis"], Float[np.ndarray, " axis"]]:
    """Middle and standard deviation of a weight along each axis.

    The Gaussian whose moments are those of the weight (Luo et al. 2016 find effective fields Gaussian in shape; they
    count the pixels above a share of the middle instead).

    Parameters
    ----------
    weight
        Not negative, ``(*space)``.

    Returns
    -------
    tuple
        Middles and standard deviations ``(axis,)`` in pixels; NaN where there is no weight.
    """
    middles, deviations = [], []
    for axis in range(weight.ndim):
        share = profile(weight, axis)
        at = np.arange(len(share))
        middle = float((share * at).sum())
        middles.append(middle)
        deviations.append(float(np.sqrt((share * (at - middle) ** 2).sum())))
    return np.array(middles), np.array(deviations)


def support(weight: np.ndarray) -> np.ndarray:
    """First place with weight and the one after the last, per axis ``(axis, 2)``; -1 where there is none."""
    floor = FLOOR * weight.max(initial=0)
    ends = []
    for axis in range(weight.ndim):
        along = weight.max(axis=tuple(other for other in range(weight.ndim) if other != axis))
        hit = np.flatnonzero(along > floor)
        ends.append((hit[0], hit[-1] + 1) if len(hit) else (-1, -1))
    return np.array(ends, np.int32)


def outside(weight: np.ndarray, box: Sequence[tuple[int, int]]) -> float:
    """Share of a weight that lies outside a box; NaN where there is no weight."""
    total, beyond = weight.sum(), weight.copy()
    # Added up by itself, so that nothing outside is nothing, and not what rounding leaves of a difference.
    beyond[tuple(slice(*span) for span in box)] = 0
    return float(beyond.sum() / total) if total > 0 else float("nan")
