"""Candidates for the nearest rows by products of 16 bits, and a bound below which nobody else can lie.

Centred, scaled and rounded to bfloat16 (8 bits of significance), a row x becomes x' and is moved by e_x = |x - x'|,
which is measured. Since ``|q - x| >= |q' - x'| - e_q - e_x``, the nearest of the *rounded* rows are looked for, and
what rounding can have done is taken off their distance afterwards. Where more rows lie within that than there are
candidates, the search is left to float32.

Products of two bfloat16 numbers are exact in float32, in which they are added. So with w_x = (1 - delta) |x'|^2 and
delta = 4 gamma + 8 u, u and gamma those of float32 (`screening` says how), the product of the rows (-2 q', 1, w_q) and
(x', w_x, 1) is at most ``|q' - x'|^2``: adding is off by at most 2 gamma of |q'|^2 + |x'|^2, the lengths are off by
gamma, and the weights take three columns each, so that next to nothing of them is lost. The result is rounded once
more, to 8 bits. That of a row left out is at least that of the worst candidate, v, and hence

    |q' - x'| >= a = sqrt(v / (1 + 2^-8)).

Of e_x it is known that it is at most M, the largest of all, and at most h |x'| with the largest ratio h. Either
|x'| <= |q'| + a, or x' is further from q' than |x'| - |q'|, which grows faster than h |x'|. So in both cases

    |q - x| >= a - e_q - min(M, h (|q'| + a)).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .distances import Metric, prepared
from .screening import ALWAYS, FAR, own_places

# Queries and rows of one product: few enough scores to stay in the cache, and enough to fill the processor.
_QUERIES, _ROWS = 512, 4096
# Half the spacing of numbers at 1.
_UNIT16, _UNIT32 = 2.0**-8, 2.0**-24
# Rows that show whether the rest is worth the while.
_ENOUGH = 2048
# Columns that a weight takes.
_PARTS = 3
# What underflow can do to lengths and to their squares, where the longest query has a length of about 1.
_VANISHED, _VANISHED_SQUARED = 2.0**-50, 2.0**-80
# The ratio h is that of rows at least this long; shorter ones are rounded by less than h times this.
_SHORT = 2.0**-30
# Patterns of bfloat16: infinity, and more than that.
_INFINITE, _NEVER = 0x7F80, 0x7FFF
# A key is score and position, so that equal scores are told apart by position.
_NOBODY = (_INFINITE << 32) | 0xFFFFFFFF


@cache
def has_short_products() -> bool:
    """Whether this processor multiplies bfloat16 numbers itself; else they are no faster than float32."""
    import torch

    # Versions of torch that cannot say so are searched with in float32, which gives the same neighbors.
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@dataclass(frozen=True)
class _Frame:
    """Where rows are moved before they are rounded, which leaves their distances as they are."""

    centre: Float[np.ndarray, " feature"]
    scale: float
    metric: Metric

    @classmethod
    def around(cls, query: Float[np.ndarray, "query feature"], metric: Metric) -> _Frame:
        """A frame that brings the longest query to a length of about 1."""
        values = _single(query, metric)
        centre = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        with np.errstate(over="ignore"):
            longest = float(np.abs(values - centre).max(initial=0)) * float(np.sqrt(query.shape[1]))
        # Not beyond what float32 can hold; whatever the scale is, what it does to rows is measured.
        power = np.clip(-np.ceil(np.log2(longest)), -120, 100) if 0 < longest < np.inf else 0
        return cls(centre, float(2.0**power), metric)

    def rounded(self, rows: Float[np.ndarray, "row feature"]) -> _Rounded:
        """Rows of the table, or queries, as stored."""
        import torch

        inside = torch.empty(rows.shape, dtype=torch.bfloat16)
        length, moved = np.empty(len(rows)), np.empty(len(rows))
        step = max(1, (1 << 17) // max(1, rows.shape[1]))
        for a in range(0, len(rows), step):
            some = slice(a, a + step)
            with np.errstate(over="ignore", invalid="ignore"):
                values = _single(rows[some], self.metric) - self.centre
                values *= np.float32(self.scale)
                inside[some] = torch.from_numpy(values)
                short = inside[some].float().numpy()
                length[some] = np.sqrt(np.einsum("ij,ij->i", short, short))
                values -= short
                moved[some] = np.sqrt(np.einsum("ij,ij->i", values, values))
        return _Rounded(inside, length, self._moved(moved, length, rows.shape[1]))

    def _moved(self, measured: np.ndarray, length: np.ndarray, feature: int) -> np.ndarray:
        """What rounding moves rows by at most: what was measured in float32, and what float32 did before that."""
        more = 1 + 2 * (feature + 8) * _UNIT32
        # Under cosine rows are rounded at a length of 1, before they are centred.
        before = _UNIT32 * self.scale if self.metric == "cosine" else 0.0
        return more * (measured + 2 * _UNIT32 * (length + measured) + before) + _VANISHED


@dataclass(frozen=True)
class _Rounded:
    """Rounded rows, their lengths to float32's precision, and what rounding moved each by at most."""

    rows: Any
    length: Float[np.ndarray, " row"]
    moved: Float[np.ndarray, " row"]

    def beside(self, factor: float, weight: Float[np.ndarray, " row"], place: int) -> Any:
        """One side of the product: the rows times a power of two, the weight from column `place` on, and ones."""
        import torch

        feature = self.rows.shape[1]
        found = torch.ones((len(weight), feature + 2 * _PARTS), dtype=torch.bfloat16)
        torch.mul(self.rows, factor, out=found[:, :feature])
        rest = torch.from_numpy(weight.astype(np.float32))
        for column in range(feature + place, feature + place + _PARTS):
            found[:, column] = rest
            rest = rest - found[:, column].float()
        return found


def _single(rows: Float[np.ndarray, "row feature"], metric: Metric) -> Float[np.ndarray, "row feature"]:
    """Prepared rows in float32."""
    return np.asarray(prepared(rows, metric) if metric == "cosine" else rows, np.float32)


def screen_roughly(
    query: Float[np.ndarray, "query feature"],
    own: Int[np.ndarray, " query"],
    table: Iterable[tuple[Int[np.ndarray, " row"], Float[np.ndarray, "row feature"]]],
    k: int,
    size: int,
    metric: Metric,
) -> tuple[Int[np.ndarray, "query best"], Float[np.ndarray, "query best"], Float[np.ndarray, " query"]]:
    """The `size` best candidates of each query, and squared distances that each, and that all others, reach at least.

    Parameters
    ----------
    query
        Usable rows as stored, float32.
    own
        Their positions in the table, which are left out.
    table
        Positions and usable rows as stored, block by block.
    k, size
        How many neighbors are wanted, and how many candidates.
    metric
        Between rows.

    Returns
    -------
    tuple of ndarray
        Positions in no order, -1 where there are fewer; bounds, infinite for nobody, 0 or NaN where nothing is known,
        of distances between rows that are `distances.prepared`. No candidates where the first blocks show that less
        than half of the queries would be settled.
    """
    search, seen, asked = RoughSearch(query, own, size, metric), 0, False
    for position, rows in table:
        search.look(position, rows)
        seen += len(position)
        if not asked and seen >= _ENOUGH:
            asked = True
            if not search.promises(k):
                return np.full((len(own), size), -1, np.int64), np.zeros((len(own), size)), np.zeros(len(own))
    reach = search.reach()
    return search.candidates(), reach, reach.max(axis=1)


@dataclass
class RoughSearch:
    """Keeps the best candidates of each query while the table goes by.

    Parameters
    ----------
    query
        Usable rows as stored.
    own
        Their positions in the table, which are left out.
    size
        How many candidates.
    metric
        Between rows.
    """

    query: Float[np.ndarray, "query feature"]
    own: Int[np.ndarray, " query"]
    size: int
    metric: Metric
    _widest: float = 0.0
    _ratio: float = 0.0
    _next: int = field(init=False)

    def __post_init__(self) -> None:
        self._frame = _Frame.around(self.query, self.metric)
        self._short = self._frame.rounded(self.query)
        terms = (self.query.shape[1] + 2 * _PARTS + 2) * _UNIT32
        self._delta = 4 * terms / (1 - terms) + 8 * _UNIT32
        self._left = self._short.beside(-2.0, (1 - self._delta) * self._short.length**2, _PARTS)
        self._key = np.full((len(self.own), self.size), _NOBODY, np.int64)
        self._next = max(64, self.size)
        self._scores = self._left.new_empty(min(_QUERIES, len(self.own)) * _ROWS)

    def look(self, position: Int[np.ndarray, " row"], rows: Float[np.ndarray, "row feature"]) -> None:
        """Let some rows of the table compete."""
        right = self._right(rows)
        a = 0
        while a < len(position):
            # Short products first: they make the worst candidate a sieve for the long ones.
            b, self._next = a + self._next, min(2 * self._next, _ROWS)
            for q in range(0, len(self.own), _QUERIES):
                self._product(slice(q, q + _QUERIES), position[a:b], right[a:b])
            a = b

    def _right(self, rows: np.ndarray) -> Any:
        """Right side; a row too far out to be squared is a candidate of everyone."""
        held = self._frame.rounded(rows)
        far = ~(held.length <= FAR)
        near = ~far
        if far.any():
            held.rows[far] = 0
        self._widest = max(self._widest, held.moved[near].max(initial=0))
        self._ratio = max(self._ratio, (held.moved[near] / np.maximum(held.length[near], _SHORT)).max(initial=0))
        weight = np.full(len(rows), -ALWAYS)
        weight[near] = (1 - self._delta) * held.length[near] ** 2
        return held.beside(1.0, weight, 0)

    def _product(self, some: slice, position: np.ndarray, right: Any) -> None:
        import torch

        left, key = self._left[some], self._key[some]
        score = self._scores[: len(left) * len(right)].view(len(left), len(right))
        torch.mm(left, right.T, out=score)
        # Above zero the patterns of floating point numbers are in the order of the numbers, and below it under those.
        pattern = score.view(torch.int16).numpy()
        _leave_out(pattern, self.own[some], position)
        hit = np.flatnonzero(pattern < (key.max(axis=1) >> 32).astype(np.int16)[:, None])
        if not len(hit):
            return
        row, column = np.divmod(hit, pattern.shape[1])
        count = np.bincount(row, minlength=len(key))
        place = self.size + np.arange(len(hit)) - (np.cumsum(count) - count)[row]
        rival = np.full((len(key), self.size + int(count.max())), _NOBODY, np.int64)
        rival[:, : self.size] = key
        rival[row, place] = (pattern.ravel()[hit].astype(np.int64) << 32) | position[column]
        self._key[some] = np.partition(rival, self.size - 1, axis=1)[:, : self.size]

    def candidates(self) -> Int[np.ndarray, "query best"]:
        """Positions of the best in no order, -1 where there are fewer."""
        return (self._key & 0xFFFFFFFF).astype(np.uint32).view(np.int32).astype(np.int64)

    def reach(self) -> Float[np.ndarray, "query best"]:
        """Squared distance that each candidate, and whoever has no better score, reaches at least."""
        squared = (self._apart(self._key) / self._frame.scale) ** 2
        # Measuring rounds too, in float64.
        return squared * (1 - (self.query.shape[1] + 16) * np.finfo(np.float64).eps)

    def promises(self, k: int) -> bool:
        """Whether at least half of the queries would be settled if the table ended here.

        Further rows bring the best closer together, and what rounding may have done stays: if not now, hardly later.
        """
        kth = np.sqrt(_score(np.partition(self._key, k - 1, axis=1)[:, k - 1])) + self._short.moved + self._widest
        return bool((kth < self._apart(self._key).max(axis=1)).mean() >= 0.5)

    def _apart(self, key: Int[np.ndarray, "query best"]) -> Float[np.ndarray, "query best"]:
        """Distance, in the frame, that whoever has no better score reaches at least."""
        apart = np.sqrt(np.maximum(_score(key) / (1 + _UNIT16) - _VANISHED_SQUARED, 0))
        reach = np.maximum((self._short.length[:, None] + apart) * (1 + 2 * self._delta), _SHORT)
        apart -= self._short.moved[:, None]
        return np.maximum(apart - np.minimum(self._widest, self._ratio * reach), 0)


def _score(key: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Result of the product in a key; 0 for those below."""
    pattern = np.maximum(key >> 32, 0).astype(np.uint32)
    return (pattern << 16).view(np.float32).astype(np.float64)


def _leave_out(pattern: np.ndarray, own: Int[np.ndarray, " query"], position: Int[np.ndarray, " row"]) -> None:
    """Strike each query's own row, by position."""
    here, place = own_places(own, position)
    pattern[here, place] = _NEVER
