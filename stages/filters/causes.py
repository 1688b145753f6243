"""Why a channel is in trouble, from the weights in front of it and behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .troubles import TROUBLES

#: The place of a name is its code in ``filters/cause``.
CAUSES = (
    "none",
    "unknown",
    "bias",
    "norm_scale",
    "norm_shift",
    "incoming",
    "input",
    "weights",
    "outgoing",
    "twin",
    "several",
)
#: Standard deviations of the weighted sum from which a summand is said to push a channel out of its range.
_PUSH = 1.0
# A norm of which no mean is stored takes most of a bias away; what it is left with must be far beyond that.
_FAR = 10.0
#: Share of the layer's largest up to which a weight is next to nothing, and for a channel that is merely dormant.
_NOTHING, _LITTLE = 0.01, 0.1
_DOWN, _UP = ("dead", "rare", "dormant"), ("saturated",)


@dataclass(frozen=True)
class Making:
    """What makes the channels of one layer, and what reads them; arrays of shape ``(channel,)``, NaN for unknown.

    Parameters
    ----------
    norm
        Norm of the incoming weights of the convolution.
    bias
        Of the convolution; 0 where it has none.
    gamma, beta
        Scale and shift of the norm behind it.
    centre, spread
        Stored mean and standard deviation of that norm.
    outgoing
        Norm of the weights that read the channel.
    mean, deviation
        Of what the convolution gave, over all usable images and positions.
    near_zero
        Code of what is near zero: 1 the weights, 2 the scale, 3 both.
    twin, cosine
        Most similar filter (-1 for none) and the cosine to it.
    """

    norm: Float[np.ndarray, " channel"]
    bias: Float[np.ndarray, " channel"]
    gamma: Float[np.ndarray, " channel"]
    beta: Float[np.ndarray, " channel"]
    centre: Float[np.ndarray, " channel"]
    spread: Float[np.ndarray, " channel"]
    outgoing: Float[np.ndarray, " channel"]
    mean: Float[np.ndarray, " channel"]
    deviation: Float[np.ndarray, " channel"]
    near_zero: Int[np.ndarray, " channel"]
    twin: Int[np.ndarray, " channel"]
    cosine: Float[np.ndarray, " channel"]


def find_causes(
    trouble: Int[np.ndarray, " channel"], made: Making, is_joint: bool = False
) -> Int[np.ndarray, " channel"]:
    """Code of why each channel is in trouble; the first that holds.

    A scale, incoming weights or a reader of next to nothing; an input that never varies; else the summand (bias, shift
    of the norm, or the weighted sum itself) that pushes the channel furthest to where it stands.

    Parameters
    ----------
    trouble
        Code of what is wrong with it.
    made
        Of the same layer.
    is_joint
        Whether it is known that no convolution alone makes these channels, as behind a sum.
    """
    named = np.array(TROUBLES)[trouble]
    share = np.where(named == "dormant", _LITTLE, _NOTHING)
    judged, weighed = np.isin(named, (*_DOWN, *_UP, "constant")), np.isin(named, ("constant", "near_zero"))
    down, up = _strongest(made, -1.0), _strongest(made, 1.0)
    rules = (
        ("none", named == "none"),
        ("twin", named == "duplicate"),
        ("norm_scale", _nothing(made.gamma, share) | ((named == "near_zero") & (made.near_zero >= 2))),
        ("incoming", _nothing(made.norm, share) | ((named == "near_zero") & (made.near_zero == 1))),
        ("outgoing", weighed & unread(made.outgoing)),
        ("several", (named != "none") & is_joint),
        ("input", judged & (made.deviation == 0)),
        *((cause, np.isin(named, _DOWN) & (down == cause)) for cause in ("bias", "norm_shift", "weights")),
        *((cause, np.isin(named, _UP) & (up == cause)) for cause in ("bias", "norm_shift", "weights")),
    )
    code = np.full(len(trouble), CAUSES.index("unknown"), np.int8)
    for cause, holds in reversed(rules):
        code[holds] = CAUSES.index(cause)
    return code


def unread(outgoing: Float[np.ndarray, " channel"]) -> np.ndarray:
    """Where all weights that read a channel are zero; never where the readers are unknown."""
    return outgoing == 0


def pushes(made: Making) -> dict[str, Float[np.ndarray, " channel"]]:
    """How far each summand moves a channel, in standard deviations of the weighted sum; NaN where that is not known.

    Behind a norm with a stored mean, a bias moves a channel only as far as that mean was not made for it.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        plain = np.isnan(made.gamma)
        sign = np.where(plain, 1.0, np.sign(made.gamma))
        apart = sign * (made.mean - made.centre) / made.deviation
        own = (np.abs(made.bias) >= np.abs(made.mean - made.centre) / 2) & (made.bias * (made.mean - made.centre) > 0)
        alone = np.where(np.abs(made.bias) > _FAR * made.deviation, sign * made.bias / made.deviation, 0.0)
        unstored = np.isnan(made.centre)
        behind_norm = np.where(unstored, alone, np.where(own, apart, 0.0))
        unit = np.where(np.isnan(made.spread), np.abs(made.gamma), np.abs(made.gamma) * made.deviation / made.spread)
        return {
            "bias": np.where(plain, made.bias / made.deviation, behind_norm),
            "norm_shift": np.where(plain, 0.0, made.beta / unit),
            "weights": np.where(plain, (made.mean - made.bias) / made.deviation, np.where(unstored | own, 0.0, apart)),
        }


def _strongest(made: Making, direction: float) -> np.ndarray:
    """Name of the summand that pushes each channel furthest in a direction; empty where none does, or nobody knows."""
    pushed = pushes(made)
    size = np.nan_to_num(np.stack([direction * push for push in pushed.values()]), nan=0.0)
    return np.where(size.max(axis=0) >= _PUSH, np.array(list(pushed))[size.argmax(axis=0)], "")


def _nothing(values: Float[np.ndarray, " channel"], share: Float[np.ndarray, " channel"]) -> np.ndarray:
    size = np.abs(values)
    known = size[np.isfinite(size)]
    return size <= share * known.max() if known.size else np.zeros(len(values), bool)


def in_words(cause: str, channel: Mapping[str, float]) -> str:
    """Say why, with the numbers.

    Parameters
    ----------
    cause
        One of `CAUSES`.
    channel
        Its ``bias``, ``gamma``, ``beta``, ``norm``, ``outgoing``, ``twin`` and ``cosine``; NaN for unknown.
    """
    known = {name: value for name, value in channel.items() if not math.isnan(value)}
    bias = f", so that only its bias of {known['bias']:.4g} passes" if known.get("bias") else ""
    shift = f", so that only its shift of {known['beta']:.4g} passes" if known.get("beta") else ""
    far = "the mean that its norm has stored" if "gamma" in known else "zero"
    said = {
        "bias": "bias of {bias:.4g}",
        "norm_scale": f"norm scale of {{gamma:.3g}}{shift}",
        "norm_shift": "norm shift of {beta:.4g} at a scale of {gamma:.3g}",
        "incoming": f"incoming weights of norm {{norm:.3g}}{bias}",
        "input": "what it reads never varies",
        "weights": f"its weighted sum lies far to one side of {far}",
        "outgoing": "no reader: outgoing weights are zero",
        "twin": "weights like those of channel {twin:.0f} (cosine {cosine:.3f})",
        "several": "several layers make it together",
        "unknown": "no single weight explains it",
    }.get(cause, "")
    told = said.format(**channel)
    if cause != "outgoing" and known.get("outgoing") == 0:
        told += "; no reader: outgoing weights are zero"
    return told
