"""The exact nearest rows of a table that is read block by block."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from .distances import Metric, metric_of, paired_distances, prepared, squared_distances, usable_rows
from .rough import has_short_products, screen_roughly
from .screening import Device, screen

#: How a row's neighbors were made sure; the position is the code.
DECIDED = ("float32 or bfloat16 products", "float64 products", "every pair measured")
#: Candidates beyond `k` that are measured.
SPARE = 32

# Bytes of a table that is read once and kept; a larger one is read block by block, as often as it is needed.
_KEPT = 1 << 28


@dataclass(frozen=True)
class Table:
    """Rows that can be sliced, read block by block.

    Parameters
    ----------
    rows
        Anything whose slices are arrays ``(row, feature)``, float32.
    allowed
        Rows that may be neighbors if they have a distance.
    metric
        Between rows.
    block
        Rows read at once.
    """

    rows: Any
    allowed: Bool[np.ndarray, " row"]
    metric: Metric
    block: int = 4096

    def kept(self, feature: int) -> Table:
        """The same in memory, where that is not much."""
        n = len(self.allowed)
        if isinstance(self.rows, np.ndarray) or n * feature * 4 > _KEPT:
            return self
        rows = np.empty((n, feature), np.float32)
        for a in range(0, n, self.block):
            rows[a : a + self.block] = self.rows[a : a + self.block]
        return replace(self, rows=rows)

    def stored(self) -> Iterator[tuple[Int[np.ndarray, " row"], Float[np.ndarray, "row feature"]]]:
        """Positions and values of the usable rows, block by block."""
        for a in range(0, len(self.allowed), self.block):
            values = np.asarray(self.rows[a : a + self.block])
            kept = np.flatnonzero(self.allowed[a : a + self.block] & usable_rows(values, self.metric))
            if len(kept):
                yield a + kept, values if len(kept) == len(values) else values[kept]

    def prepared(self) -> Iterator[tuple[Int[np.ndarray, " row"], Float[np.ndarray, "row feature"]]]:
        """The same, `distances.prepared`."""
        for position, values in self.stored():
            yield position, prepared(values, self.metric)


@dataclass(frozen=True)
class Nearest:
    """Neighbors of some rows.

    Parameters
    ----------
    index
        Positions, nearest first; equally near ones by position.
    distance
        In the metric, float64.
    decided
        Code in `DECIDED`.
    """

    index: Int[np.ndarray, "query k"]
    distance: Float[np.ndarray, "query k"]
    decided: Int[np.ndarray, " query"]


def nearest_rows(
    table: Table,
    own: Int[np.ndarray, " query"],
    query: Float[np.ndarray, "query feature"],
    k: int,
    device: Device = "cpu",
) -> Nearest:
    """The exact `k` nearest rows of each queried row, itself left out by position.

    The `k` + 32 best candidates by bfloat16 products, where the processor computes them, or by float32 products are
    measured again in float64, pair by pair. Where the k-th of them is not beyond doubt (`rough` and `screening` say
    when it is), the row is screened again in longer numbers; where float64 leaves doubt too, as among many equal rows,
    every pair is measured. So the result is that of measuring every pair in float64, with ties by position, on any
    processor or device and with any block.

    Parameters
    ----------
    table
        Where neighbors come from; more than `k` usable rows.
    own
        Positions of the queried rows in the table.
    query
        The queried rows as stored, all usable.
    k
        How many neighbors, 1 or more.
    device
        Where products are computed.
    """
    table = table.kept(query.shape[1])
    wanted = prepared(query, table.metric)
    index, squared = np.full((len(own), k), -1, np.int64), np.full((len(own), k), np.nan)
    decided = np.full(len(own), len(DECIDED) - 1, np.int8)
    open_ = np.arange(len(own))
    for precision, code in _precisions(device, query.dtype):
        if not len(open_):
            break
        candidate, reach, floor = _screened(precision, query[open_], own[open_], table, k, device)
        place, found = _measured(wanted[open_], candidate, reach, table, k)
        sure = found[:, -1] < floor
        done = open_[sure]
        index[done], squared[done], decided[done] = place[sure], found[sure], code
        open_ = open_[~sure]
    if len(open_):
        index[open_], squared[open_] = _whole(wanted[open_], own[open_], table, k)
    return Nearest(index, metric_of(squared, table.metric), decided)


def _precisions(device: Device, dtype: np.dtype[Any]) -> list[tuple[str, int]]:
    """What products are computed in, one after the other, and the code of each."""
    short = device == "cpu" and dtype == np.float32 and has_short_products()
    return [*([("bfloat16", 0)] if short else []), ("float32", 0), ("float64", 1)]


def _screened(
    precision: str,
    query: Float[np.ndarray, "query feature"],
    own: Int[np.ndarray, " query"],
    table: Table,
    k: int,
    device: Device,
) -> tuple[Int[np.ndarray, "query best"], Float[np.ndarray, "query best"], Float[np.ndarray, " query"]]:
    """Candidates, and squared distances that each of them, and that all others, reach at least."""
    if precision == "bfloat16":
        return screen_roughly(query, own, table.stored(), k, k + SPARE, table.metric)
    candidate, floor = screen(prepared(query, table.metric), own, table.prepared(), k + SPARE, precision, device)
    return candidate, np.zeros(candidate.shape), floor


def _measured(
    wanted: Float[np.ndarray, "query feature"],
    candidate: Int[np.ndarray, "query best"],
    reach: Float[np.ndarray, "query best"],
    table: Table,
    k: int,
) -> tuple[Int[np.ndarray, "query k"], Float[np.ndarray, "query k"]]:
    """The `k` nearest candidates of each query and their squared distances; infinite where there are fewer.

    Those of the shortest `reach` are measured first, and then those that reach no further than the k-th of these.
    """
    squared = np.full(candidate.shape, np.inf)
    known = candidate >= 0
    first = known & (reach <= np.partition(reach, k, axis=1)[:, k, None])
    _measure(squared, first, wanted, candidate, table)
    kth = np.partition(squared, k - 1, axis=1)[:, k - 1, None]
    _measure(squared, known & ~first & (reach <= kth), wanted, candidate, table)
    best = np.lexsort((candidate, squared), axis=1)[:, :k]
    return np.take_along_axis(candidate, best, axis=1), np.take_along_axis(squared, best, axis=1)


def _measure(
    squared: Float[np.ndarray, "query best"],
    chosen: Bool[np.ndarray, "query best"],
    wanted: Float[np.ndarray, "query feature"],
    candidate: Int[np.ndarray, "query best"],
    table: Table,
) -> None:
    """Fill in the squared distances of the chosen candidates."""
    place = np.flatnonzero(chosen)
    if not len(place):
        return
    place = place[np.argsort(candidate.ravel()[place], kind="stable")]
    ordered = candidate.ravel()[place]
    for position, values in table.stored():
        a, b = np.searchsorted(ordered, [position[0], position[-1] + 1])
        row = place[a:b] // candidate.shape[1]
        at = np.searchsorted(position, ordered[a:b])
        if table.metric == "cosine":
            needed, at = np.unique(at, return_inverse=True)
            values = prepared(values[needed], table.metric)
        # Euclidean rows are prepared as they are: float32 is widened where it is subtracted.
        squared.ravel()[place[a:b]] = paired_distances(wanted, values, (row, at))


def _whole(
    wanted: Float[np.ndarray, "query feature"], own: Int[np.ndarray, " query"], table: Table, k: int
) -> tuple[Int[np.ndarray, "query k"], Float[np.ndarray, "query k"]]:
    """The same from every pair; of equal rows no more than anyone could need are looked at."""
    index, squared = np.full((len(own), k), -1, np.int64), np.full((len(own), k), np.inf)
    copies: Counter[bytes] = Counter()
    for position, rows in table.stored():
        kept = _first_copies(rows, copies, k + 1)
        rivals, values = position[kept], prepared(rows[kept], table.metric)
        for i in range(len(own) if len(kept) else 0):
            found = squared_distances(wanted[i], values)
            found[rivals == own[i]] = np.inf
            near = np.flatnonzero(found <= squared[i, -1])
            names, sizes = np.append(index[i], rivals[near]), np.append(squared[i], found[near])
            best = np.lexsort((names, sizes))[:k]
            index[i], squared[i] = names[best], sizes[best]
    return index, squared


def _first_copies(
    rows: Float[np.ndarray, "row feature"], copies: Counter[bytes], most: int
) -> Int[np.ndarray, " first"]:
    """Rows not preceded by `most` equal ones, which are as near to everyone and come first."""
    kept = []
    for i, row in enumerate(rows):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        copies[digest] += 1
        if copies[digest] <= most:
            kept.append(i)
    return np.array(kept, np.int64)
