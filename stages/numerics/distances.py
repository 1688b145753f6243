"""Exact nearest rows under a metric, in blocks, with ties settled by position."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Metric = Literal["cosine", "euclidean"]


def usable_rows(table: Float[np.ndarray, "row feature"], metric: Metric) -> Bool[np.ndarray, " row"]:
    """Which rows a distance is defined for: finite ones and, under cosine, those that are not all zero."""
    usable = np.asarray(np.isfinite(table).all(axis=1))
    return usable & (table != 0).any(axis=1) if metric == "cosine" else usable


def prepared(table: Float[np.ndarray, "row feature"], metric: Metric) -> Float[np.ndarray, "row feature"]:
    """Rows in float64 among which the metric is a function of the Euclidean distance.

    Under cosine each row is scaled to length 1, so that ``1 - cos(a, b) = |a - b|^2 / 2``: unlike the left side, the
    right side is exactly 0 for equal rows and never negative.
    """
    rows = np.ascontiguousarray(table, dtype=np.float64)
    if metric == "euclidean":
        return rows
    # The largest component first, because squares of tiny or huge components leave float64.
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))


def squared_distances(
    query: Float[np.ndarray, " feature"], table: Float[np.ndarray, "row feature"]
) -> Float[np.ndarray, " row"]:
    """Squared Euclidean distance of one row to each row of a table, summed row by row.

    Each result depends on its own two rows alone, never on their place in a block, so equal rows give equal distances.
    """
    difference = table - query
    return (difference * difference).sum(axis=1)


def metric_of(squared: Float[np.ndarray, "row k"], metric: Metric) -> Float[np.ndarray, "row k"]:
    """The metric's value for squared Euclidean distances of `prepared` rows."""
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def nearest_rows(
    table: Float[np.ndarray, "row feature"],
    usable: Bool[np.ndarray, " row"],
    query: Int[np.ndarray, " query"],
    k: int,
    metric: Metric,
    block: int = 8192,
) -> tuple[Int[np.ndarray, "query k"], Float[np.ndarray, "query k"]]:
    """The exact `k` nearest usable rows of each queried row, itself excluded by position.

    A matrix product finds candidates; its rounding depends on the place of a row in a block, so candidates are
    measured again row by row, and where the k-th and the next candidate are too close to trust the product, the whole
    table is. Ties go to the lowest position.

    Parameters
    ----------
    table
        Rows as stored.
    usable
        Which of them may be neighbors; more than `k`.
    query
        Positions of the queried rows; all usable.
    k
        How many neighbors, 1 or more.
    metric
        ``"cosine"`` is 1 - cos, in [0, 2].
    block
        Rows of the table in one matrix product.

    Returns
    -------
    tuple of ndarray
        Positions, nearest first, and distances.
    """
    wanted = prepared(table[query], metric)
    candidate, certain = _candidates(wanted, query, table, usable, k, metric, block)
    everyone = np.flatnonzero(usable)
    index, squared = np.empty((len(query), k), np.int64), np.empty((len(query), k))
    for i, position in enumerate(query):
        place = candidate[i] if certain[i] else everyone[everyone != position]
        index[i], squared[i] = _measured(wanted[i], place, table, k, metric, block)
    return index, metric_of(squared, metric)


def _measured(
    wanted: Float[np.ndarray, " feature"],
    place: Int[np.ndarray, " candidate"],
    table: Float[np.ndarray, "row feature"],
    k: int,
    metric: Metric,
    block: int,
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The `k` nearest of some rows and their squared distances, measured row by row."""
    index, squared = np.empty(0, np.int64), np.empty(0)
    for a in range(0, len(place), block):
        rivals = place[a : a + block]
        found = squared_distances(wanted, prepared(table[rivals], metric))
        index, squared = np.concatenate([index, rivals]), np.concatenate([squared, found])
        order = np.lexsort((index, squared))[:k]
        index, squared = index[order], squared[order]
    return index, squared


def _candidates(
    wanted: Float[np.ndarray, "query feature"],
    query: Int[np.ndarray, " query"],
    table: Float[np.ndarray, "row feature"],
    usable: Bool[np.ndarray, " row"],
    k: int,
    metric: Metric,
    block: int,
) -> tuple[Int[np.ndarray, "query candidate"], Bool[np.ndarray, " query"]]:
    """A few more than `k` candidates by a matrix product, and where no nearer row can have been missed."""
    others = np.flatnonzero(usable)
    size = min(k + 3, len(others) - 1)
    best = np.full((len(query), size), np.inf)
    index = np.full((len(query), size), -1, np.int64)
    own, longest = (wanted * wanted).sum(axis=1), 0.0
    for a in range(0, len(others), block):
        place = others[a : a + block]
        rows = prepared(table[place], metric)
        length = (rows * rows).sum(axis=1)
        longest = max(longest, float(length.max()))
        distance = own[:, None] + length - 2 * (wanted @ rows.T)
        distance[query[:, None] == place] = np.inf
        short = _smallest(distance, size)
        best = np.concatenate([best, np.take_along_axis(distance, short, axis=1)], axis=1)
        index = np.concatenate([index, place[short]], axis=1)
        kept = _smallest(best, size)
        best, index = np.take_along_axis(best, kept, axis=1), np.take_along_axis(index, kept, axis=1)
    if len(others) - 1 == size:  # everyone is a candidate, nobody can have been missed
        return index, np.ones(len(query), bool)
    ordered = np.sort(best, axis=1)
    # Bound of the rounding of a product of that many terms and of the sums around it, on either side.
    rounding = 4 * (wanted.shape[1] + 4) * np.finfo(np.float64).eps * (np.sqrt(own) + np.sqrt(longest)) ** 2
    return index, ordered[:, -1] > ordered[:, k - 1] + rounding


def _smallest(values: Float[np.ndarray, "row column"], size: int) -> Int[np.ndarray, "row best"]:
    if size >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, size - 1, axis=1)[:, :size]
