"""What can be wrong with a channel, judged from its activations and, where those are well, from its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..numerics.statistics import rule_of_three, wilson

#: The place of a name is its code in ``filters/trouble``.
TROUBLES = ("none", "dead", "rare", "dormant", "constant", "saturated", "duplicate", "near_zero")
#: Those that show in the activations.
SEEN = TROUBLES[1:6]


@dataclass(frozen=True)
class Limits:
    """Where trouble begins.

    Parameters
    ----------
    rare
        A channel is rare when it fires, but in less than this share of images.
    dormant
        A channel is dormant when its mean magnitude is at most this share of its layer's mean.
    constant
        A channel is constant when its standard deviation is at most this share of its largest magnitude.
    saturated
        A channel is saturated when at least this share of its values stands at the layer's upper limit.
    """

    rare: float
    dormant: float
    constant: float
    saturated: float


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of one layer's channels over all usable images and positions; each of shape ``(channel,)``.

    Parameters
    ----------
    fired
        Images in which the channel is above zero somewhere.
    rate
        Their share.
    variance, min, max
        Of all values.
    mean_abs
        Mean magnitude.
    saturated
        Share of values at the layer's upper limit; NaN where it has none.
    """

    fired: Int[np.ndarray, " channel"]
    rate: Float[np.ndarray, " channel"]
    variance: Float[np.ndarray, " channel"]
    min: Float[np.ndarray, " channel"]
    max: Float[np.ndarray, " channel"]
    mean_abs: Float[np.ndarray, " channel"]
    saturated: Float[np.ndarray, " channel"]

    @property
    def finite(self) -> Bool[np.ndarray, " channel"]:
        """Where all values were finite."""
        return np.isfinite(self.mean_abs) & np.isfinite(self.variance)


def dormancy(mean_abs: Float[np.ndarray, " channel"]) -> Float[np.ndarray, " channel"]:
    """Mean magnitude of each channel over the layer's mean of them (eq. 1 of sokar2023); NaN for a silent layer."""
    whole = mean_abs.mean()
    return mean_abs / whole if 0 < whole < np.inf else np.full(len(mean_abs), np.nan)


def rate_bound(fired: Int[np.ndarray, " channel"], n: int) -> Float[np.ndarray, " channel"]:
    """Upper 95 % bound of the rate at which a channel fires.

    The rule of three where it never fired in `n` images, else the upper end of Wilson's interval.
    """
    known = {count: rule_of_three(n) if count == 0 else wilson(count, n)[1] for count in set(fired.tolist())}
    return np.array([known[count] for count in fired.tolist()])


def is_constant(seen: ChannelStatistics, share: float) -> np.ndarray:
    """Where a channel says the same of every image and position, up to `share` of its largest magnitude."""
    largest = np.maximum(np.abs(seen.min), np.abs(seen.max))
    return np.sqrt(seen.variance) <= share * largest


def relu_troubles(seen: ChannelStatistics, limits: Limits) -> Int[np.ndarray, " channel"]:
    """Code of what is wrong with each channel of a ReLU's output; one that is several things is the first of them.

    In order: dead (fires in no image), rare, saturated, constant (fires in every image and never varies), dormant.
    """
    alive = seen.fired > 0
    checks = {
        "dead": ~alive & seen.finite,
        "rare": alive & (seen.rate < limits.rare),
        "saturated": seen.saturated >= limits.saturated,
        "constant": (seen.rate == 1) & is_constant(seen, limits.constant),
        "dormant": dormancy(seen.mean_abs) <= limits.dormant,
    }
    return _first(checks, len(seen.fired))


def linear_troubles(seen: ChannelStatistics, limits: Limits) -> Int[np.ndarray, " channel"]:
    """Code of what is wrong with each channel of a convolution's output, where only a lack of variation is wrong.

    Below zero is no silence there: what follows may shift it, add to it or use its sign.
    """
    return _first({"constant": is_constant(seen, limits.constant)}, len(seen.fired))


def weight_troubles(
    trouble: Int[np.ndarray, " channel"],
    near_zero: Bool[np.ndarray, " channel"],
    duplicate: Bool[np.ndarray, " channel"],
) -> Int[np.ndarray, " channel"]:
    """Code of what is wrong with each channel of a convolution once its weights are known too.

    A channel that never varies stays that; else it weighs next to nothing, or is a duplicate.
    """
    return _first({"constant": trouble != 0, "near_zero": near_zero, "duplicate": duplicate}, len(trouble))


def _first(checks: dict[str, np.ndarray], n: int) -> Int[np.ndarray, " channel"]:
    code = np.zeros(n, np.int8)
    for name, holds in checks.items():
        code[(code == 0) & holds] = TROUBLES.index(name)
    return code
