"""Heatmaps against masks: thresholds, outlines, and agreement with a region that is known; numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

_BINS = 256
_USUAL_TOLERANCE = 15 / 500


def otsu_threshold(values: Float[np.ndarray, "*space"]) -> float:
    """Find the value that parts a heatmap best into low and high: the largest variance between the two (otsu1979).

    Parameters
    ----------
    values
        Any shape; what is not finite takes no part.

    Returns
    -------
    float
        High is what lies above it. The middle of the best bin edges where several are equally good, out of 256 bins
        between smallest and largest value; that value where all are equal; NaN where none is finite.
    """
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if not finite.size:
        return float("nan")
    low, high = float(finite.min()), float(finite.max())
    if not high > low:
        return high
    count, edges = np.histogram(finite, bins=_BINS, range=(low, high))
    centre = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(count)[:-1]
    above = finite.size - below
    total = np.cumsum(count * centre)
    mean_below = total[:-1] / below
    mean_above = (total[-1] - total[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2  # eq. 14, times n squared
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float((edges[1:-1][best[0]] + edges[1:-1][best[-1]]) / 2)


def otsu_mask(heatmap: Float[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Positions whose evidence for the class lies above Otsu's threshold; none where there is no evidence.

    Evidence against the class counts as none.
    """
    evidence = np.nan_to_num(np.maximum(heatmap, 0.0))
    return evidence > otsu_threshold(evidence)


def top_share_mask(heatmap: Float[np.ndarray, "*space"], share: float) -> Bool[np.ndarray, "*space"]:
    """The positions with the largest values.

    Parameters
    ----------
    heatmap
        One heatmap; what is not finite comes last.
    share
        How many of all positions, 0 to 1, rounded; equals in reading order.
    """
    flat = np.where(np.isfinite(heatmap), heatmap, -np.inf).ravel()
    chosen = np.argsort(-flat, kind="stable")[: int(np.rint(share * flat.size))]
    mask = np.zeros(flat.size, bool)
    mask[chosen] = True
    return mask.reshape(heatmap.shape)


def outline(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Positions of a mask with a neighbour outside of it, along an axis; beyond the border is outside.

    Returns
    -------
    Bool[np.ndarray, "*space"]
        A part of `mask`, one position wide.
    """
    mask = np.asarray(mask, bool)
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for shift in (0, 2):
            window = tuple(slice(shift if at == axis else 1, None) for at in range(mask.ndim))
            inside &= padded[window][tuple(slice(0, length) for length in mask.shape)]
    return mask & ~inside


def pointing_tolerance(tolerance: int | None, space: Sequence[int]) -> int:
    """How far beside a region a heatmap may point, in pixels of the input.

    None stands for the 15 pixels of zhang2018, whose photographs are 500 pixels long, at the size of the input: 3 % of
    its longest axis, rounded.
    """
    return round(_USUAL_TOLERANCE * max(space)) if tolerance is None else tolerance


def pointing(heatmap: Float[np.ndarray, "*space"], region: Bool[np.ndarray, "*space"], tolerance: int = 0) -> float:
    """Whether the largest value lies in a region or near it: 1 or 0 (zhang2018).

    Parameters
    ----------
    heatmap
        One heatmap; the first of several equally large values decides.
    region
        Where the object lies.
    tolerance
        Largest Euclidean distance to the nearest position of the region that still counts, in positions.

    Returns
    -------
    float
        NaN where the region is empty or the heatmap is the same everywhere, and so points nowhere.
    """
    if not region.any() or not np.isfinite(heatmap).all() or heatmap.max() == heatmap.min():
        return float("nan")
    place = np.unravel_index(np.argmax(heatmap), heatmap.shape)
    near = ((np.argwhere(region) - np.array(place)) ** 2).sum(axis=1).min()
    return float(near <= tolerance**2)


def inside_share(heatmap: Float[np.ndarray, "*space"], region: Bool[np.ndarray, "*space"]) -> float:
    """Share of all evidence for the class that lies in a region, 0 to 1 (wang2020, energy-based pointing game).

    NaN where there is no evidence or no region.
    """
    evidence = np.maximum(heatmap, 0.0)
    total = evidence.sum()
    if not region.any() or not np.isfinite(total) or total <= 0:
        return float("nan")
    return float(evidence[region].sum() / total)


def overlap(mask: Bool[np.ndarray, "*space"], region: Bool[np.ndarray, "*space"]) -> float:
    """Intersection over union of two masks, 0 to 1; NaN where both are empty or there is no region."""
    if not region.any():
        return float("nan")
    return float((mask & region).sum() / (mask | region).sum())
