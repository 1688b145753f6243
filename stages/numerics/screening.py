"""Candidates for the nearest rows by matrix products, and a bound below which nobody else can lie.

A product in floating point is off by at most ``gamma = n u / (1 - n u)`` of the sum of its terms' magnitudes, in
whatever order its n terms are added (higham2002, section 3.1; u is half the spacing of numbers at 1). With
``2 |q| |x| <= |q|^2 + |x|^2`` that error, and the rounding of the rows themselves, can be put on the two lengths. So
every row x of the table gets the score

    s = 2 q x - (1 - delta) |x|^2,    delta = 3 gamma + 8 u,

and, whatever was rounded, ``|q - x|^2 >= (1 - delta) |q|^2 - s``. Who is not among the best scores is therefore at
least as far as the lowest of these says; where that is beyond the k-th measured distance, nobody was missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int

Device = Literal["cpu", "cuda"]

# Queries and rows of one product: their scores stay in a processor's cache while they are looked through.
_QUERIES, _ROWS = 512, 2048
# On a GPU a product has to be large to fill it.
_GPU_QUERIES = 8192
# Rows further out than this many times the longest query would leave float32 when squared.
FAR, ALWAYS = 2.0**40, 2.0**100


@dataclass(frozen=True)
class Frame:
    """Where queries and table are moved before they are multiplied, which leaves their distances as they are.

    Parameters
    ----------
    centre
        What is taken off each row; near the queries, since rounding grows with the lengths.
    scale
        Power of two that brings the longest query to a length of about 1.
    dtype
        Precision of the products, numpy name.
    """

    centre: Float[np.ndarray, " feature"]
    scale: float
    dtype: str

    @classmethod
    def around(cls, query: Float[np.ndarray, "query feature"], dtype: str) -> Frame:
        """A frame for some prepared queries."""
        centre = query.mean(axis=0)
        longest = float(np.sqrt(((query - centre) ** 2).sum(axis=1).max()))
        return cls(centre, 2.0 ** -np.ceil(np.log2(longest)) if longest > 0 else 1.0, dtype)

    @property
    def unit(self) -> float:
        """Half the spacing of numbers at 1."""
        return float(np.finfo(self.dtype).eps) / 2

    def delta(self, feature: int) -> float:
        """Share of both squared lengths that covers all rounding; the module says how."""
        terms = (feature + 2) * self.unit
        return 3 * terms / (1 - terms) + 8 * self.unit

    def moved(
        self, rows: Float[np.ndarray, "row feature"]
    ) -> tuple[Float[np.ndarray, "row feature"], Float[np.ndarray, " row"]]:
        """Rows in this frame, and their squared lengths in float64."""
        inside = np.empty(rows.shape, self.dtype)
        squared = np.empty(len(rows))
        step = max(1, (1 << 17) // max(1, rows.shape[1]))
        for a in range(0, len(rows), step):
            some = rows[a : a + step] - self.centre
            some *= self.scale
            inside[a : a + step] = some
            some = inside[a : a + step].astype(np.float64)
            squared[a : a + step] = (some * some).sum(axis=1)
        return inside, squared

    def left(self, query: Float[np.ndarray, "query feature"]) -> Float[np.ndarray, "query column"]:
        """Left side of the product: twice the query, and 1."""
        inside, _ = self.moved(query)
        return np.concatenate([2 * inside, np.ones((len(query), 1), self.dtype)], axis=1)

    def right(self, rows: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row column"]:
        """Right side: the row, and its shortened squared length, taken off.

        A row too far out to be squared is a candidate of everyone.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            inside, squared = self.moved(rows)
        far = ~(squared <= FAR**2)
        inside[far] = 0
        weight = np.where(far, ALWAYS, -(1 - self.delta(rows.shape[1])) * squared)
        return np.concatenate([inside, weight[:, None].astype(self.dtype)], axis=1)

    def floor(
        self, query: Float[np.ndarray, "query feature"], lowest: Float[np.ndarray, " query"]
    ) -> Float[np.ndarray, " query"]:
        """What the measured squared distance of a row whose score is at most `lowest` cannot fall below."""
        feature = query.shape[1]
        _, squared = self.moved(query)
        vanished = feature * float(np.finfo(self.dtype).tiny) * 2.0**44
        bound = (1 - self.delta(feature)) * squared - lowest - vanished
        # Measuring rounds too, in float64.
        return bound * (1 - (feature + 8) * np.finfo(np.float64).eps) / self.scale**2


class Leaders(Protocol):
    """Keeps the best scores of each query while the table goes by."""

    def look(self, position: Int[np.ndarray, " row"], right: Float[np.ndarray, "row column"]) -> None:
        """Let some rows of the table compete."""

    def best(self) -> tuple[Int[np.ndarray, "query best"], Float[np.ndarray, " query"]]:
        """Positions of the best, -1 where there are fewer, and the lowest of their scores, -inf where there are."""
        ...


def screen(
    query: Float[np.ndarray, "query feature"],
    own: Int[np.ndarray, " query"],
    table: Iterable[tuple[Int[np.ndarray, " row"], Float[np.ndarray, "row feature"]]],
    size: int,
    dtype: str = "float32",
    device: Device = "cpu",
) -> tuple[Int[np.ndarray, "query best"], Float[np.ndarray, " query"]]:
    """The `size` best candidates of each query, and a squared distance that all others reach at least.

    Parameters
    ----------
    query
        Prepared rows.
    own
        Their positions in the table, which are left out.
    table
        Positions and prepared rows, block by block.
    size
        How many candidates.
    dtype
        Precision of the products.
    device
        Where they are computed.

    Returns
    -------
    tuple of ndarray
        Positions in no order, -1 where there are fewer; and the bound, infinite where everyone is a candidate.
    """
    frame = Frame.around(query, dtype)
    left = frame.left(query)
    leaders: Leaders = _OnGPU(left, own, size, device) if device != "cpu" else _InCache(left, own, size)
    for position, rows in table:
        leaders.look(position, frame.right(rows))
    index, lowest = leaders.best()
    return index, frame.floor(query, lowest)


class _InCache:
    """Products small enough to be looked through in the cache, against each query's lowest score so far."""

    def __init__(self, left: np.ndarray, own: np.ndarray, size: int) -> None:
        self.left, self.own, self.size = left, own, size
        self.score = np.full((len(left), size), -np.inf, left.dtype)
        self.index = np.full((len(left), size), -1, np.int64)
        self._next = max(64, size)
        # One place for all products: fresh memory would cost a fault for every page of every one.
        self._scores = np.empty(min(_QUERIES, len(left)) * _ROWS, left.dtype)

    def look(self, position: np.ndarray, right: np.ndarray) -> None:
        a = 0
        while a < len(position):
            # Short products first: they make the lowest score a sieve for the long ones.
            b, self._next = a + self._next, min(2 * self._next, _ROWS)
            for q in range(0, len(self.left), _QUERIES):
                self._product(slice(q, q + _QUERIES), position[a:b], right[a:b])
            a = b

    def _product(self, some: slice, position: np.ndarray, right: np.ndarray) -> None:
        left = self.left[some]
        score = self._scores[: len(left) * len(right)].reshape(len(left), len(right))
        np.matmul(left, right.T, out=score)
        _leave_out(score, self.own[some], position)
        hit = np.flatnonzero(score > self.score[some].min(axis=1)[:, None])
        if not len(hit):
            return
        row, column = np.divmod(hit, score.shape[1])
        count = np.bincount(row, minlength=len(score))
        place = self.size + np.arange(len(hit)) - (np.cumsum(count) - count)[row]
        width = self.size + int(count.max())
        rival = np.full((len(score), width), -np.inf, score.dtype)
        index = np.full((len(score), width), -1, np.int64)
        rival[:, : self.size], index[:, : self.size] = self.score[some], self.index[some]
        rival[row, place], index[row, place] = score.ravel()[hit], position[column]
        kept = np.argpartition(rival, width - self.size, axis=1)[:, width - self.size :]
        self.score[some] = np.take_along_axis(rival, kept, axis=1)
        self.index[some] = np.take_along_axis(index, kept, axis=1)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        return self.index, self.score.min(axis=1).astype(np.float64)


class _OnGPU:
    """Large products, and the best of each by torch."""

    def __init__(self, left: np.ndarray, own: np.ndarray, size: int, device: str) -> None:
        import torch

        self.torch, self.device, self.own, self.size = torch, device, own, size
        self.left = torch.from_numpy(left).to(device)
        self.score = torch.full((len(left), size), -torch.inf, dtype=self.left.dtype, device=device)
        self.index = torch.full((len(left), size), -1, dtype=torch.int64, device=device)

    def look(self, position: np.ndarray, right: np.ndarray) -> None:
        rows = self.torch.from_numpy(right).to(self.device)
        names = self.torch.from_numpy(position).to(self.device)
        for q in range(0, len(self.left), _GPU_QUERIES):
            some = slice(q, q + _GPU_QUERIES)
            with _unshortened(self.torch):
                score = self.left[some] @ rows.T
            _leave_out(score, self.own[some], position)
            rival = self.torch.cat([self.score[some], score], dim=1)
            index = self.torch.cat([self.index[some], names.expand(len(score), -1)], dim=1)
            self.score[some], kept = self.torch.topk(rival, self.size, dim=1, sorted=False)
            self.index[some] = index.gather(1, kept)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        return self.index.cpu().numpy(), self.score.amin(dim=1).double().cpu().numpy()


@contextmanager
def _unshortened(torch: Any) -> Iterator[None]:
    """Products in the precision of their factors: TF32 and bfloat16 would break the bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _leave_out(score: Any, own: Int[np.ndarray, " query"], position: Int[np.ndarray, " row"]) -> None:
    """Strike each query's own row from scores."""
    here, place = own_places(own, position)
    if len(here):
        score[here, place] = -np.inf


def own_places(
    own: Int[np.ndarray, " query"], position: Int[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " here"], Int[np.ndarray, " here"]]:
    """Which queries are among some rows of ascending positions, and where."""
    place = np.searchsorted(position, own)
    here = np.flatnonzero(position[np.minimum(place, len(position) - 1)] == own)
    return here, place[here]
