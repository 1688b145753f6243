"""Channel statistics of many images as one set of arrays that adds up: exact for counts, extrema and ranks.

The channels of all layers stand side by side on one axis, so that merging is a handful of array operations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int


def summarise(
    peak: Float[np.ndarray, "image channel"],
    low: Float[np.ndarray, "image channel"],
    mean: Float[np.ndarray, "image channel"],
    variance: Float[np.ndarray, "image channel"],
    mean_abs: Float[np.ndarray, "image channel"],
    saturated: Float[np.ndarray, "image channel"],
) -> dict[str, np.ndarray]:
    """Fold per-image statistics, each over the same number of positions, into those of all images.

    Returns
    -------
    dict[str, np.ndarray]
        ``n`` (a count), ``fired`` (images whose peak is above zero), ``max``, ``min``, ``mean``, ``variance``
        (population), ``mean_abs`` and ``saturated``, float64 per channel. Without images: n is 0, the extrema are
        infinite, the rest is 0.
    """
    n, channel = peak.shape
    wide = [array.astype(np.float64) for array in (mean, variance, mean_abs, saturated)]
    each_mean, each_variance, each_abs, each_saturated = wide
    total = np.zeros(channel) if n == 0 else each_mean.mean(axis=0)
    # An infinite activation makes NaN here, and the stage makes a finding of it.
    with np.errstate(invalid="ignore"):
        spread = np.zeros(channel) if n == 0 else (each_variance + (each_mean - total) ** 2).mean(axis=0)
    return {
        "n": np.asarray(n, np.int64),
        "fired": (peak > 0).sum(axis=0, dtype=np.int64),
        "max": peak.max(axis=0, initial=-np.inf).astype(np.float64),
        "min": low.min(axis=0, initial=np.inf).astype(np.float64),
        "mean": total,
        "variance": spread,
        "mean_abs": np.zeros(channel) if n == 0 else each_abs.mean(axis=0),
        "saturated": np.zeros(channel) if n == 0 else each_saturated.mean(axis=0),
    }


def merge(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of two disjoint sets of images together.

    Parameters
    ----------
    first, second
        Results of `summarise` or of `merge`.

    References
    ----------
    Chan, Golub and LeVeque 1979, eq. 2.1, with means in place of sums.
    """
    n = first["n"] + second["n"]
    if not first["n"] or not second["n"]:
        whole = first if first["n"] else second
        return {key: whole[key] for key in _STATISTICS}
    left, right = first["n"] / n, second["n"] / n
    with np.errstate(invalid="ignore"):
        shift = second["mean"] - first["mean"]
    return {
        "n": np.asarray(n, np.int64),
        "fired": first["fired"] + second["fired"],
        "max": np.maximum(first["max"], second["max"]),
        "min": np.minimum(first["min"], second["min"]),
        "mean": first["mean"] + shift * right,
        "variance": first["variance"] * left + second["variance"] * right + shift**2 * left * right,
        "mean_abs": first["mean_abs"] * left + second["mean_abs"] * right,
        "saturated": first["saturated"] * left + second["saturated"] * right,
    }


def merge_ranks(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], top: int) -> dict[str, np.ndarray]:
    """Best `top` images per channel of two rankings over disjoint images.

    Parameters
    ----------
    first, second
        ``top_value`` (-inf where there is none), ``top_image`` (-1) and ``top_position`` (-1).
        Shape ``(channel, rank)``.
    top
        How many to keep.

    Returns
    -------
    dict[str, np.ndarray]
        Ordered by value, then by image.
    """
    both = {key: np.concatenate([first[key], second[key]], axis=1) for key in _RANKS}
    order = np.lexsort((both["top_image"], -both["top_value"]), axis=1)[:, :top]
    return {key: np.take_along_axis(array, order, axis=1) for key, array in both.items()}


def ranks(
    peak: Float[np.ndarray, "image channel"],
    entrant: Int[np.ndarray, "rank channel"],
    position: Int[np.ndarray, "rank channel"],
    image: Int[np.ndarray, " image"],
    valid: np.ndarray,
) -> dict[str, np.ndarray]:
    """One batch's ranking, by place in the data set (`image`, ascending) and without images that cannot be used."""
    value = np.take_along_axis(peak, entrant, axis=0).T
    keep = valid[entrant].T & ~np.isnan(value)
    return {
        "top_value": np.where(keep, value, -np.inf).astype(np.float32),
        "top_image": np.where(keep, image[entrant].T, -1).astype(np.int64),
        "top_position": np.where(keep, position.T, -1).astype(np.int64),
    }


_STATISTICS = ("n", "fired", "max", "min", "mean", "variance", "mean_abs", "saturated")
_RANKS = ("top_value", "top_image", "top_position")
