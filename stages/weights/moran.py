"""Moran's I: whether neighbours in a plane of weights are alike, and what of that chance alone explains (moran1950)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from ..numerics.seeds import numpy_generator

#: Planes whose spread is no more than this share of their own size are constant up to rounding.
_CONSTANT = 1e-12
_POOL = 1 << 15


def long_axes(kernel: Sequence[int]) -> tuple[int, ...]:
    """The lengths of a kernel along the axes on which it has neighbours."""
    return tuple(length for length in kernel if length > 1)


def is_judgeable(kernel: Sequence[int], shortest: int = 5) -> bool:
    """Whether neighbours can tell anything: not in a single cell, nor in a line of fewer than `shortest`."""
    lengths = long_axes(kernel)
    return len(lengths) > 1 or (len(lengths) == 1 and lengths[0] >= shortest)


def morans_i(planes: Float[np.ndarray, " plane *kernel"]) -> Float[np.ndarray, " plane"]:
    """Spatial autocorrelation of each plane (moran1950), with weight 1 between cells that share a side.

    The cells over the pairs, times the sum over pairs of the product of both deviations from the plane's mean, over the
    sum of squared deviations. 1 is as smooth as can be, `chance_mean` what independent weights give, below it
    neighbours differ.

    Returns
    -------
    array
        NaN for planes that are constant, not finite, or of a single cell.
    """
    if not long_axes(planes.shape[1:]):
        return np.full(len(planes), np.nan)
    values = planes.reshape(len(planes), *long_axes(planes.shape[1:]))
    space = tuple(range(1, values.ndim))
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = values - values.mean(axis=space, keepdims=True)
        spread, size = (apart**2).sum(axis=space), (values**2).sum(axis=space)
        products = np.zeros(len(values))
        for axis in space:
            first = [slice(None)] * values.ndim
            second = [slice(None)] * values.ndim
            first[axis], second[axis] = slice(1, None), slice(None, -1)
            product = apart[tuple(first)] * apart[tuple(second)]
            products += product.sum(axis=space)
        cells = int(np.prod(values.shape[1:]))
        pairs = sum(cells // length * (length - 1) for length in values.shape[1:])
        return np.where(spread > _CONSTANT * size, cells / pairs * products / spread, np.nan)


def chance_mean(kernel: Sequence[int]) -> float:
    """Mean of Moran's I over planes of exchangeable weights: -1 / (cells - 1), whatever their distribution."""
    return -1.0 / (int(np.prod(kernel)) - 1)


def chance_deviation(kernel: Sequence[int]) -> float:
    """Standard deviation of Moran's I over planes of independent Gaussian weights.

    Cliff and Ord (cliff1981), under normality: with n cells, s0 twice the number of pairs, s1 four times it and s2 four
    times the sum of squared numbers of neighbours, E[I²] = (n² s1 - n s2 + 3 s0²) / (s0² (n² - 1)).
    """
    lengths = long_axes(kernel)
    neighbours = np.zeros(lengths)
    for axis, length in enumerate(lengths):
        along = np.full(length, 2.0)
        along[[0, -1]] -= 1
        neighbours += along.reshape([-1 if place == axis else 1 for place in range(len(lengths))])
    n, s0 = neighbours.size, neighbours.sum()
    s1, s2 = 2 * s0, 4 * (neighbours**2).sum()
    second = (n * n * s1 - n * s2 + 3 * s0 * s0) / (s0 * s0 * (n * n - 1))
    return float(np.sqrt(second - chance_mean(lengths) ** 2))


def planes_needed(kernel: Sequence[int], effect: float, level: float, power: float) -> int:
    """How many planes it takes to tell a mean that is `effect` above chance from chance.

    Parameters
    ----------
    kernel
        Lengths along the spatial axes.
    effect
        Smallest excess over the mean of chance that counts as structure.
    level
        Probability of seeing structure where there is none; one-sided.
    power
        Probability of seeing it where the excess is `effect`.
    """
    needed = NormalDist().inv_cdf(1 - level) + NormalDist().inv_cdf(power)
    return int(np.ceil((needed * chance_deviation(kernel) / effect) ** 2))


def filter_p_values(
    mean: Float[np.ndarray, " filter"],
    planes: Int[np.ndarray, " filter"],
    kernel: Sequence[int],
    simulations: int,
    seed: int,
) -> Float[np.ndarray, " filter"]:
    """Share of simulated filters of independent Gaussian weights that are as smooth as each filter, or smoother.

    Counted with the filter itself among them, so that none is ever 0. The planes that are drawn have exactly the mean
    and deviation of chance, whatever the draw.

    Parameters
    ----------
    mean
        Moran's I, averaged over each filter's planes; NaN gives NaN.
    planes
        How many planes that average rests on.
    kernel, simulations, seed
        Lengths along the spatial axes, filters to simulate, and the root of the random numbers.
    """
    p = np.full(len(mean), np.nan)
    for count in np.unique(planes[np.isfinite(mean)]).tolist():
        chance = _simulated(long_axes(kernel), simulations, int(planes.max()), seed)[:, count - 1]
        own = (planes == count) & np.isfinite(mean)
        above = simulations - np.searchsorted(np.sort(chance), mean[own] - 1e-12)
        p[own] = (1 + above) / (simulations + 1)
    return p


@lru_cache(maxsize=2)
def _simulated(kernel: tuple[int, ...], simulations: int, most: int, seed: int) -> Float[np.ndarray, "simulation n"]:
    """Means of Moran's I over 1 to `most` planes of simulated filters."""
    random = numpy_generator(seed, "x".join(map(str, kernel)), "weights moran")
    pool = morans_i(random.standard_normal((_POOL, *kernel)))
    pool = chance_mean(kernel) + (pool - pool.mean()) * (chance_deviation(kernel) / pool.std())
    drawn = pool[random.integers(0, _POOL, (simulations, most))]
    return np.cumsum(drawn, axis=1) / np.arange(1, most + 1)


def adjusted(p: Float[np.ndarray, " filter"]) -> Float[np.ndarray, " filter"]:
    """Smallest false discovery rate at which each filter is called smooth (benjamini1995); NaN takes no part."""
    q = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    ranks = np.arange(1, len(order) + 1)
    stepped = np.minimum.accumulate((p[order] * len(order) / ranks)[::-1])[::-1]
    q[order] = np.minimum(stepped, 1.0)
    return q
