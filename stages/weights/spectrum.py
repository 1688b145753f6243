"""Singular values beyond those that independent weights have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import eigsh

# 99th percentile of the Tracy-Widom law for real matrices (johnstone2001).
_TRACY_WIDOM = 2.0234
#: With fewer singular values than this in a matrix the edge means little.
FEWEST = 10


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a layer against chance.

    Parameters
    ----------
    spikes
        How many lie above both the edge and the largest of the shuffled weights; -1 where nothing was measured.
    top
        The largest.
    edge
        Where those of independent weights of the same variance end.
    shuffled
        The largest over all shuffles of the weights.
    values
        How many singular values there are.
    """

    spikes: int
    top: float
    edge: float
    shuffled: float
    values: int


def spectrum(
    filters: Float[np.ndarray, "filter plane *kernel"], groups: int, shuffles: int, random: np.random.Generator
) -> Spectrum:
    """Count the directions in which a layer does more than independent weights would.

    The filters, less the mean of all weights, are one matrix per group, a row for each filter; the null is the same
    weights in random order, with the same distribution and no structure.

    Parameters
    ----------
    filters
        All filters of a layer, group after group.
    groups
        How many groups of filters read channels of their own.
    shuffles
        How often the null is drawn; at least 1.
    random
        Where it is drawn from.
    """
    matrices = filters.reshape(groups, len(filters) // groups, -1)
    smaller = min(matrices.shape[1:])
    if smaller < FEWEST or not np.isfinite(matrices).all():
        return Spectrum(-1, math.nan, math.nan, math.nan, smaller * groups)
    matrices = matrices - matrices.mean()
    edge = float(matrices.std()) * math.sqrt(chance_edge(*matrices.shape[1:]))
    shuffled = 0.0
    for _ in range(shuffles):
        # Single precision halves the time; the null needs no more.
        order = random.permutation(matrices.astype(np.float32).reshape(-1))
        shuffled = max(shuffled, largest(order.reshape(matrices.shape)))
    values = singular_values(matrices)
    return Spectrum(int((values > max(edge, shuffled)).sum()), float(values.max()), edge, shuffled, smaller * groups)


def chance_edge(rows: int, columns: int) -> float:
    """Largest squared singular value that one in a hundred matrices of independent unit weights exceeds.

    The edge of the Marchenko-Pastur law (marchenko1967) with the centring and scale that finite matrices need
    (johnstone2001, theorem 1.1).
    """
    n, p = math.sqrt(max(rows, columns) - 1), math.sqrt(min(rows, columns))
    return (n + p) ** 2 + _TRACY_WIDOM * (n + p) * (1 / n + 1 / p) ** (1 / 3)


def singular_values(matrices: Float[np.ndarray, "group row column"]) -> Float[np.ndarray, "group value"]:
    """Singular values of each matrix, by way of the smaller of its Gram matrices."""
    squared = np.linalg.eigvalsh(_gram(matrices))
    return np.sqrt(np.maximum(squared, 0.0))


def largest(matrices: Float[np.ndarray, "group row column"]) -> float:
    """The largest singular value of all matrices, by Lanczos: all of them cost ten times as much."""
    tops = [
        eigsh(gram, 1, which="LA", tol=1e-5, v0=np.ones(len(gram), gram.dtype), return_eigenvectors=False)[0]  # pyright: ignore[reportArgumentType]
        for gram in _gram(matrices)
    ]
    return float(np.sqrt(max(*tops, 0.0)))


def _gram(matrices: Float[np.ndarray, "group row column"]) -> Float[np.ndarray, "group value value"]:
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.swapaxes(1, 2)
    return wide @ wide.swapaxes(1, 2)
