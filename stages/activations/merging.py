"""Channel statistics of many images as one set of arrays that adds up: exact for counts, extrema and ranks.

The channels of all layers stand side by side on one axis, so that merging is a handful of array operations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int


def summarise(
    peak: Float[np.ndarray, "image channel"],
    mean: Float[np.ndarray, "image channel"],
    more: Mapping[str, Float[np.ndarray, "image channel"]],
) -> dict[str, np.ndarray]:
    """Fold per-image statistics, each over the same number of positions, into those of all images.

    Parameters
    ----------
    peak, mean
        Largest value and mean of each channel in each image.
    more
        Whatever else was measured, by name, as in `ChannelValues.more`.

    Returns
    -------
    dict[str, np.ndarray]
        ``n`` (a count), ``fired`` (images whose peak is above zero), ``max``, ``mean`` and all of `more`, float64 per
        channel. Without images: n is 0, the extrema are infinite, the rest is 0.
    """
    total = _mean(mean)
    folded = {
        "n": np.asarray(len(peak), np.int64),
        "fired": (peak > 0).sum(axis=0, dtype=np.int64),
        "max": peak.max(axis=0, initial=-np.inf).astype(np.float64),
        "mean": total,
    }
    for name, values in more.items():
        if name == "min":
            folded[name] = values.min(axis=0, initial=np.inf).astype(np.float64)
        elif name == "variance":
            # An infinite activation makes NaN here, and the stage makes a finding of it.
            with np.errstate(invalid="ignore"):
                folded[name] = _mean(values.astype(np.float64) + (mean.astype(np.float64) - total) ** 2)
        else:
            folded[name] = _mean(values)
    return folded


def _mean(values: Float[np.ndarray, "image channel"]) -> Float[np.ndarray, " channel"]:
    return values.astype(np.float64).mean(axis=0) if len(values) else np.zeros(values.shape[1])


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
        return {key: whole[key] for key in whole if key not in _RANKS}
    left, right = first["n"] / n, second["n"] / n
    with np.errstate(invalid="ignore"):
        shift = second["mean"] - first["mean"]
    merged = {
        "n": np.asarray(n, np.int64),
        "fired": first["fired"] + second["fired"],
        "max": np.maximum(first["max"], second["max"]),
        "mean": first["mean"] + shift * right,
    }
    for key in first.keys() - merged.keys() - set(_RANKS):
        if key == "min":
            merged[key] = np.minimum(first[key], second[key])
        else:
            merged[key] = first[key] * left + second[key] * right
    if "variance" in merged:
        merged["variance"] = merged["variance"] + shift**2 * left * right
    return merged


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
    if first["top_value"].shape[1] < top:
        return _best(first, second, top)
    # The second ranking is in order, so that a channel whose best does not reach the first one's last stays as it is.
    changed = np.flatnonzero(second["top_value"][:, 0] >= first["top_value"][:, -1])
    merged = {key: first[key].copy() for key in _RANKS}
    best = _best({key: first[key][changed] for key in _RANKS}, {key: second[key][changed] for key in _RANKS}, top)
    for key in _RANKS:
        merged[key][changed] = best[key]
    return merged


def _best(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], top: int) -> dict[str, np.ndarray]:
    both = {key: np.concatenate([first[key], second[key]], axis=1) for key in _RANKS}
    order = np.lexsort((both["top_image"], -both["top_value"]), axis=1)[:, :top]
    return {key: np.take_along_axis(array, order, axis=1) for key, array in both.items()}


def ranks(
    peak: Float[np.ndarray, "image channel"],
    position: Int[np.ndarray, "image channel"],
    image: Int[np.ndarray, " image"],
    top: int,
) -> dict[str, np.ndarray]:
    """One batch's ranking, by place in the data set (`image`, ascending).

    Parameters
    ----------
    peak
        Largest value of each channel in each image.
    position
        Where it lies; -1 where the image cannot be among the best.
    image
        Place of each image in the data set.
    top
        How many to keep.
    """
    rank, channel = min(top, len(peak)), peak.shape[1]
    ranking = {
        "top_value": np.full((channel, rank), -np.inf, np.float32),
        "top_image": np.full((channel, rank), -1, np.int64),
        "top_position": np.full((channel, rank), -1, np.int64),
    }
    entered = position >= 0
    some = np.flatnonzero(entered.any(axis=0))
    keep = entered[:, some].T
    # NaN comes last, behind minus infinity.
    order = np.argsort(np.where(keep, -peak[:, some].T, np.nan), axis=1, kind="stable")[:, :rank]
    best = np.take_along_axis(keep, order, axis=1)
    ranking["top_value"][some] = np.where(best, np.take_along_axis(peak[:, some].T, order, axis=1), -np.inf)
    ranking["top_image"][some] = np.where(best, image[order], -1)
    ranking["top_position"][some] = np.take_along_axis(position[:, some].T, order, axis=1)
    return ranking


_RANKS = ("top_value", "top_image", "top_position")
