"""From Moran's I of its filters to one word about a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaincc

from .moran import adjusted, chance_deviation, chance_mean, is_judgeable, planes_needed

#: The place of a word is its code in ``weights/layers/verdict``.
VERDICTS = ("smooth", "noise", "rough", "inconclusive", "not applicable")


@dataclass(frozen=True)
class Standard:
    """How sure a verdict has to be.

    Parameters
    ----------
    effect
        Smallest excess of Moran's I over the mean of chance that counts as structure.
    level
        Probability, at each end, of calling independent weights structured.
    power
        Probability of seeing a layer whose excess is `effect`.
    discovery
        False discovery rate among the filters called smooth.
    """

    effect: float
    level: float
    power: float
    discovery: float


@dataclass(frozen=True)
class Smoothness:
    """What is said of one layer.

    Parameters
    ----------
    verdict
        One of `VERDICTS`.
    mean, chance
        Moran's I averaged over the planes of the filters that took part, and the mean that chance has.
    low, high
        Bounds of `mean` as the standard's level has them.
    p
        Probability that chance gives a mean as far from its own, two-sided; NaN where nothing was measured.
    planes, needed
        Planes that took part, and how many a verdict takes.
    smooth, filters
        Filters called smooth, of how many that took part.
    q
        False discovery rate at which each filter is called smooth. Shape ``(filter,)``.
    reason
        Why there is no verdict; empty where there is one.
    """

    verdict: str
    mean: float
    chance: float
    low: float
    high: float
    p: float
    planes: int
    needed: int
    smooth: int
    filters: int
    q: Float[np.ndarray, " filter"]
    reason: str = ""


def judge(
    moran: Float[np.ndarray, " filter"],
    planes: Int[np.ndarray, " filter"],
    p: Float[np.ndarray, " filter"],
    taking_part: Bool[np.ndarray, " filter"],
    kernel: Sequence[int],
    standard: Standard,
) -> Smoothness:
    """Say whether the filters of a layer are smooth or noise.

    Smooth or rough: the mean over planes lies above or below that of chance, further than the level allows. Noise: it
    does not, the mean is surely nearer to chance than the effect, and the filters lie no further apart than chance puts
    them. The error is that of independent planes; for noise, where alike planes within a filter must not feign
    certainty, the larger of that and the one between filters.

    Parameters
    ----------
    moran, planes, p
        Moran's I averaged over each filter's planes, their number, and the filter's p-value.
    taking_part
        Filters that are not near zero.
    kernel
        Lengths along the spatial axes.
    standard
        How sure it has to be.
    """
    used = taking_part & np.isfinite(moran) & (planes > 0)
    q = adjusted(np.where(used, p, np.nan))
    if not is_judgeable(kernel):
        return _unknown("not applicable", f"a kernel of {'x'.join(map(str, kernel))} has too few neighbours", q)
    needed = planes_needed(kernel, standard.effect, standard.level, standard.power)
    if not used.any():
        return _unknown("inconclusive", "every filter is near zero, constant or not finite", q, needed)
    chance, n = chance_mean(kernel), int(planes[used].sum())
    mean = float((moran[used] * planes[used]).sum() / n)
    error = chance_deviation(kernel) / math.sqrt(n)
    z = (mean - chance) / error
    verdict = _verdict(z, mean - chance, error, _between(moran[used], planes[used]), int(used.sum()), standard)
    enough = n >= needed
    reach = NormalDist().inv_cdf(1 - standard.level) * error
    return Smoothness(
        verdict=verdict if enough else "inconclusive",
        mean=mean,
        chance=chance,
        low=mean - reach,
        high=mean + reach,
        p=2 * NormalDist().cdf(-abs(z)),
        planes=n,
        needed=needed,
        smooth=int((q[used] <= standard.discovery).sum()),
        filters=int(used.sum()),
        q=q,
        reason=_why(verdict, n, needed),
    )


def _verdict(z: float, excess: float, error: float, between: float, n: int, standard: Standard) -> str:
    if abs(z) >= NormalDist().inv_cdf(1 - standard.level):
        return "smooth" if z > 0 else "rough"
    # Smooth and rough filters may cancel in the mean, but then they lie further apart than chance puts them.
    alike = n < 2 or gammaincc((n - 1) / 2, (n - 1) / 2 * (between / error) ** 2) >= standard.level
    near = abs(excess) + NormalDist().inv_cdf(standard.power) * max(error, between) <= standard.effect
    return "noise" if near and alike else "inconclusive"


def _between(moran: Float[np.ndarray, " filter"], planes: Int[np.ndarray, " filter"]) -> float:
    """Standard error of the mean over planes as the spread between filters has it; 0 for a single filter."""
    n, total = len(moran), planes.sum()
    if n < 2:
        return 0.0
    apart = planes * (moran - (moran * planes).sum() / total)
    return float(np.sqrt((apart**2).sum() * n / (n - 1)) / total)


def _why(verdict: str, n: int, needed: int) -> str:
    if n < needed:
        return f"{n} of {needed} planes"
    return "filters differ more among themselves than by chance" if verdict == "inconclusive" else ""


def _unknown(verdict: str, reason: str, q: Float[np.ndarray, " filter"], needed: int = 0) -> Smoothness:
    nan = math.nan
    return Smoothness(verdict, nan, nan, nan, nan, nan, 0, needed, 0, 0, q, reason)
