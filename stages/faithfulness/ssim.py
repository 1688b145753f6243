"""Structural similarity of heatmaps (wang2004), by which adebayo2018 compare them besides the rank correlation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

#: The window: standard deviation and reach in cells, as in the paper (11 by 11).
_SIGMA, _REACH = 1.5, 5
#: Of the constants that keep a quotient of two zeros at 1 (eqs. 7 and 10).
_K1, _K2 = 0.01, 0.03


def structural_similarity(
    first: Float[np.ndarray, "image ..."], second: Float[np.ndarray, "image ..."]
) -> Float[np.ndarray, " image"]:
    """Mean SSIM of the magnitudes of two heatmaps, each as shares of its own largest.

    Parameters
    ----------
    first
        Heatmaps of the network as it is; one spatial axis or two.
    second
        Heatmaps of the altered one.

    Returns
    -------
    Float[np.ndarray, " image"]
        At most 1, for equals; NaN where `rank_correlation` is: where the first is the same everywhere, or one is not
        finite.

    Notes
    -----
    Departures from the paper, eq. 13: windows are cut at the border, their weights adding up to 1 again, instead of
    left out, so that maps smaller than a window have a value; along one axis the window is the same Gaussian of 11
    cells. The dynamic range is 1.
    """
    x, y, usable = _shares(first), _shares(second), np.ones(len(first), bool)
    for heatmap in (first, second):
        usable &= np.isfinite(heatmap.reshape(len(heatmap), -1)).all(axis=1)
    size = np.abs(first.reshape(len(first), -1))
    usable &= size.max(axis=1) > size.min(axis=1)
    weight = _smoothed(np.ones((1, *x.shape[1:])))
    mean_x, mean_y = (_smoothed(values) / weight for values in (x, y))
    square_x, square_y, product = (_smoothed(values) / weight for values in (x * x, y * y, x * y))
    spread_x, spread_y = (np.maximum(square - mean**2, 0) for square, mean in ((square_x, mean_x), (square_y, mean_y)))
    c1, c2 = _K1**2, _K2**2
    alike = (2 * mean_x * mean_y + c1) * (2 * (product - mean_x * mean_y) + c2)
    alike /= (mean_x**2 + mean_y**2 + c1) * (spread_x + spread_y + c2)
    return np.where(usable, alike.reshape(len(alike), -1).mean(axis=1), np.nan)


def _shares(heatmap: Float[np.ndarray, "image ..."]) -> Float[np.ndarray, "image ..."]:
    size = np.nan_to_num(np.abs(heatmap.astype(np.float64)))
    largest = size.reshape(len(size), -1).max(axis=1).reshape(-1, *(1,) * (size.ndim - 1))
    return np.divide(size, largest, out=np.zeros_like(size), where=largest > 0)


def _smoothed(values: Float[np.ndarray, "image ..."]) -> Float[np.ndarray, "image ..."]:
    axes = tuple(range(1, values.ndim))
    return gaussian_filter(values, _SIGMA, mode="constant", axes=axes, radius=_REACH)
