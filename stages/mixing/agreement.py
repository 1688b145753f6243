"""Whether the three signals put the pairs of classes in the same order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata, t

from .pairs import SIGNALS, Evidence, mixedness

#: The two signals of each correlation, as positions in `SIGNALS`.
COUPLES = ((0, 1), (0, 2), (1, 2))
#: Below so many classes, leaving one out says nothing of the doubt.
FEWEST = 5
_GROUPS = 20


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of two signals over the pairs that have enough images.

    Parameters
    ----------
    signals
        Which two.
    value
        Spearman's rho, -1 to 1; 1 where both call the same pairs mixed; NaN for fewer than three pairs, or where all
        pairs are equal by one of them.
    low, high
        95 % interval; None where it is not known.
    n
        Pairs.
    """

    signals: tuple[str, str]
    value: float
    low: float | None
    high: float | None
    n: int


def agreements(found: Evidence) -> tuple[Agreement, ...]:
    """Correlate each two of the signals (spearman1904), equal values by the mean of their ranks.

    Notes
    -----
    Pairs that share a class are not independent. So the interval comes from leaving out classes with all of their pairs
    (the jackknife of efron1981: standard error sqrt((g - 1) / g * sum of squared deviations), Student's t with g - 1
    degrees of freedom): one at a time or, where there are more than twenty, one of twenty groups that classes are dealt
    into by turns.
    """
    good = found.enough
    value, one, two = mixedness(found.value[good]), found.first[good], found.second[good]
    return tuple(_agreement((SIGNALS[a], SIGNALS[b]), value[:, [a, b]], one, two) for a, b in COUPLES)


def _agreement(
    signals: tuple[str, str],
    value: Float[np.ndarray, "pair two"],
    one: Int[np.ndarray, " pair"],
    two: Int[np.ndarray, " pair"],
) -> Agreement:
    whole = spearman(value)
    present = np.unique(np.concatenate([one, two]))
    n_group = min(_GROUPS, len(present))
    if math.isnan(whole) or len(present) < FEWEST:
        return Agreement(signals, whole, None, None, len(value))
    group = np.full(int(present.max()) + 1, -1)
    group[present] = np.arange(len(present)) % n_group
    without = np.array([spearman(value[(group[one] != left) & (group[two] != left)]) for left in range(n_group)])
    if np.isnan(without).any():
        return Agreement(signals, whole, None, None, len(value))
    error = math.sqrt((n_group - 1) / n_group * float(((without - without.mean()) ** 2).sum()))
    reach = float(t.ppf(0.975, n_group - 1)) * error
    return Agreement(signals, whole, max(-1.0, whole - reach), min(1.0, whole + reach), len(value))


def spearman(value: Float[np.ndarray, "pair two"]) -> float:
    """Spearman's rho of two columns; NaN for fewer than three rows, or a column without differences."""
    if len(value) < 3 or (value == value[0]).all(axis=0).any():
        return math.nan
    return float(np.corrcoef(rankdata(value, axis=0).T)[0, 1])
