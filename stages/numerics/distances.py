"""Distances between stored rows, each measured from its own two rows alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Metric = Literal["cosine", "euclidean"]

# Numbers in double precision that stay in a processor's cache from one step to the next.
_CACHED = 1 << 17


def finite_rows(table: Float[np.ndarray, "row feature"]) -> Bool[np.ndarray, " row"]:
    """Which rows hold finite numbers only."""
    return np.asarray(np.isfinite(table).all(axis=1))


def usable_rows(table: Float[np.ndarray, "row feature"], metric: Metric) -> Bool[np.ndarray, " row"]:
    """Which rows a distance is defined for: finite ones and, under cosine, those that are not all zero."""
    usable = finite_rows(table)
    return usable & (table != 0).any(axis=1) if metric == "cosine" else usable


def prepared(table: Float[np.ndarray, "row feature"], metric: Metric) -> Float[np.ndarray, "row feature"]:
    """Rows in float64 among which the metric is a function of the Euclidean distance.

    Under cosine each row is scaled to length 1, so that ``1 - cos(a, b) = |a - b|^2 / 2``: unlike the left side, the
    right side is exactly 0 for equal rows and never negative, so that nothing has to be clamped.

    Parameters
    ----------
    table
        Usable rows, as stored (float32: their squares neither leave float64 nor vanish in it).
    metric
        ``"cosine"`` or ``"euclidean"``.
    """
    rows = np.array(table, dtype=np.float64, order="C")
    if metric == "cosine":
        step = max(1, _CACHED // max(1, rows.shape[1]))
        for a in range(0, len(rows), step):
            some = rows[a : a + step]
            some /= np.sqrt((some * some).sum(axis=1, keepdims=True))
    return rows


def squared_distances(
    query: Float[np.ndarray, " feature"], table: Float[np.ndarray, "row feature"]
) -> Float[np.ndarray, " row"]:
    """Squared Euclidean distance of one row to each row of a table, summed row by row.

    Each result depends on its own two rows alone, never on their place in a block, so equal rows give equal distances.
    """
    difference = table - query
    return (difference * difference).sum(axis=1)


def paired_distances(
    query: Float[np.ndarray, "row feature"], table: Float[np.ndarray, "other feature"], pair: tuple[np.ndarray, ...]
) -> Float[np.ndarray, " pair"]:
    """The same for chosen pairs of rows, to the bit.

    Parameters
    ----------
    query, table
        Prepared rows.
    pair
        Row of `query` and row of `table`, of each pair.
    """
    first, second = pair
    found = np.empty(len(first))
    step = max(1, _CACHED // max(1, table.shape[1]))
    for a in range(0, len(first), step):
        difference = table[second[a : a + step]].astype(np.float64)
        difference -= query[first[a : a + step]]
        difference *= difference
        found[a : a + step] = difference.sum(axis=1)
    return found


def metric_of(squared: Float[np.ndarray, "*shape"], metric: Metric) -> Float[np.ndarray, "*shape"]:
    """The metric's value for squared Euclidean distances of `prepared` rows."""
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def length_of(distance: Float[np.ndarray, "*shape"], metric: Metric) -> Float[np.ndarray, "*shape"]:
    """Euclidean distance of `prepared` rows for values of the metric: under cosine the chord, ``sqrt(2 (1 - cos))``."""
    return np.sqrt(2 * distance) if metric == "cosine" else distance
