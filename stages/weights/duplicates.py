"""Filters of one layer that point the same way."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betainc


def twins(
    filters: Float[np.ndarray, "filter plane *kernel"], groups: int, taking_part: Bool[np.ndarray, " filter"]
) -> tuple[Int[np.ndarray, " filter"], Float[np.ndarray, " filter"]]:
    """The filter that is most like each filter, up to scale and sign, among those that read the same channels.

    Parameters
    ----------
    filters
        All filters of a layer, group after group.
    groups
        How many groups of filters read channels of their own.
    taking_part
        Filters with a direction; those near zero have none.

    Returns
    -------
    tuple
        Its position (-1 for none) and the cosine between both, -1 to 1 (NaN for none).
    """
    n = len(filters)
    each = n // groups
    twin, cosine = np.full(n, -1, np.int32), np.full(n, np.nan)
    flat = filters.reshape(n, -1)
    for start in range(0, n, each):
        own = start + np.flatnonzero(taking_part[start : start + each])
        if len(own) < 2:
            continue
        directions = flat[own] / np.linalg.norm(flat[own], axis=1, keepdims=True)
        alike = np.clip(directions @ directions.T, -1.0, 1.0)
        size = np.abs(alike)
        np.fill_diagonal(size, -1.0)
        best = size.argmax(axis=1)
        twin[own], cosine[own] = own[best], alike[np.arange(len(own)), best]
    return twin, cosine


def chance_of_twins(limit: float, cells: int) -> float:
    """Probability that two independent random directions in `cells` dimensions have a cosine beyond ±`limit`.

    The squared cosine has a beta distribution with parameters 1/2 and (cells - 1)/2.
    """
    if cells < 2:
        return 1.0
    return float(1.0 - betainc(0.5, (cells - 1) / 2, limit * limit))


def expected_twins(limit: float, cells: int, filters: int, groups: int) -> float:
    """How many pairs within groups are expected to be that much alike by chance, over all of a layer's filters."""
    each = filters // max(groups, 1)
    return groups * each * (each - 1) / 2 * chance_of_twins(limit, cells)
