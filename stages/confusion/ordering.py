"""Classes in an order that puts those side by side that are confused with each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ..numerics.statistics import shares
from .matrix import mistakes

#: Up to so many classes the leaves of the tree are turned until neighbours are as close as can be; it is slow beyond.
OPTIMAL = 200


def clustered(matrix: Int[np.ndarray, "label prediction"]) -> Int[np.ndarray, " place"]:
    """Order classes by a tree of who is confused with whom.

    Parameters
    ----------
    matrix
        Confusion matrix.

    Returns
    -------
    ndarray
        The class at each place: leaves of average linkage, where two classes are the closer, the larger the shares of
        their images that go to the other, added. Up to `OPTIMAL` classes the order of leaves is the best of the tree's.
        As they came, where nothing is confused.
    """
    closeness = _closeness(matrix)
    if len(matrix) < 3 or not closeness.any():
        return np.arange(len(matrix), dtype=np.int32)
    distance = 1 - closeness / closeness.max()
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=len(matrix) <= OPTIMAL)
    order = leaves_list(tree).astype(np.int32)
    # Either end may come first; equal matrices should look equal.
    return order if order[0] < order[-1] else order[::-1].copy()


def densest(matrix: Int[np.ndarray, "label prediction"], order: Int[np.ndarray, " place"], size: int) -> int:
    """Where in an order the `size` neighbours begin that hold most errors among themselves; of equal ones the first."""
    wrong = mistakes(matrix[np.ix_(order, order)].astype(np.int64))
    size = min(size, len(order))
    total = np.pad(wrong.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    start = np.arange(len(order) - size + 1)
    stop = start + size
    inside = total[stop, stop] - total[start, stop] - total[stop, start] + total[start, start]
    return int(inside.argmax())


def _closeness(matrix: Int[np.ndarray, "label prediction"]) -> Float[np.ndarray, "class other"]:
    # A label without images has no shares: here it is close to nobody, which only says where it stands.
    share = np.nan_to_num(shares(mistakes(matrix), matrix.sum(axis=1, keepdims=True)))
    return share + share.T
