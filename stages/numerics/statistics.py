"""Bounds that say how much a counted share can be trusted."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Shaped

from ..errors import StageError


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Parameters
    ----------
    successes
        How often it happened; 0 to `n`.
    n
        How often it could have happened.
    confidence
        Probability that the interval covers the true share; between 0 and 1, both excluded.

    Returns
    -------
    tuple[float, float]
        Lower and upper bound, between 0 and 1; NaN twice for ``n == 0``.

    Raises
    ------
    StageError
        When `successes` is not among 0 to `n`, or `confidence` is not a probability.

    References
    ----------
    Wilson 1927, the interval of p. 210, without continuity correction.
    """
    if not 0 <= successes <= n or not 0 < confidence < 1:
        raise StageError(
            f"wilson: expected 0 <= successes <= n and 0 < confidence < 1, got {successes=}, {n=}, {confidence=}"
        )
    if n == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends one bound is exactly the share itself; rounding would leave it at 1e-17 beside it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def shares(part: Shaped[np.ndarray, "*n"], whole: Shaped[np.ndarray, "*#n"]) -> Float[np.ndarray, "*n"]:
    """Each part as a share of its whole; NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def rule_of_three(n: int) -> float:
    """Upper 95 % bound of the rate of something that was never seen in `n` tries.

    Parameters
    ----------
    n
        How often it was looked for.

    Returns
    -------
    float
        ``3 / n``, at most 1; NaN for ``n == 0``.

    Raises
    ------
    StageError
        When `n` is negative.

    References
    ----------
    Hanley and Lippman-Hand 1983; an approximation, from above, of the exact bound ``1 - 0.05 ** (1 / n)``.
    """
    if n < 0:
        raise StageError(f"rule_of_three: expected n >= 0, got {n}")
    return math.nan if n == 0 else min(1.0, 3 / n)
