"""The temperature that makes confidences fit (guo2017)."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq

#: Temperatures are sought between these.
LOWEST, HIGHEST = 0.01, 100.0
_BLOCK = 4096


def temperature(logit: Float[np.ndarray, "image class"], label: Int[np.ndarray, " image"]) -> float | None:
    """The number by which logits must be divided for the labels to be likeliest (sec. 4.2 of guo2017).

    Parameters
    ----------
    logit
        Finite logits; at least one image.
    label
        Class positions.

    Returns
    -------
    float or None
        Above 1 where the network is too sure. None where no temperature in [0.01, 100] is the best: because every label
        has the largest logit, or because large logits speak against the labels.

    Notes
    -----
    The negative log-likelihood is convex in 1 / T; its derivative there, the mean over images of the expected logit
    less the label's, is brought to zero by bisection and interpolation (Brent) in log T. The paper names no solver.
    """

    def slope(log_inverse: float) -> float:
        return _slope(logit, label, math.exp(log_inverse))

    low, high = -math.log(HIGHEST), -math.log(LOWEST)
    if not (slope(low) < 0 < slope(high)):
        return None
    return math.exp(-float(brentq(slope, low, high, xtol=1e-9, rtol=1e-9)))  # pyright: ignore[reportArgumentType]


def _slope(logit: Float[np.ndarray, "image class"], label: Int[np.ndarray, " image"], inverse: float) -> float:
    """Derivative of the mean negative log-likelihood by the inverse temperature."""
    total = 0.0
    for start in range(0, len(label), _BLOCK):
        own = label[start : start + _BLOCK]
        value = logit[start : start + _BLOCK].astype(np.float64)
        value -= value.max(axis=1, keepdims=True)
        weight = np.exp(inverse * value)
        expected = np.einsum("ij,ij->i", weight, value) / weight.sum(axis=1)
        total += float((expected - value[np.arange(len(own)), own]).sum())
    return total / len(label)
