"""Expected calibration error (guo2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import StageError
from ..numerics.statistics import shares


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    Parameters
    ----------
    edges
        Borders of the bins, from 0 to 1. Shape ``(bin + 1,)``.
    count, right
        Images in each bin, and those of them that were answered right.
    confidence, accuracy
        Means over each bin; NaN for an empty bin.
    error
        Expected calibration error, in [0, 1]; NaN without images.
    """

    edges: Float[np.ndarray, " edge"]
    count: Int[np.ndarray, " bin"]
    right: Int[np.ndarray, " bin"]
    confidence: Float[np.ndarray, " bin"]
    accuracy: Float[np.ndarray, " bin"]
    error: float


def calibration(confidence: Float[np.ndarray, " image"], right: Bool[np.ndarray, " image"], bins: int) -> Calibration:
    """Bin images by confidence and compare the mean confidence of each bin with its accuracy (eq. 3 of guo2017).

    Parameters
    ----------
    confidence
        Softmax probability of the predicted class, in [0, 1].
    right
        Whether the prediction equals the label.
    bins
        Number of bins of equal width. A bin holds its lower border; the last one holds 1.0 too, where the paper's
        bins hold their upper border, so that neither 0.0 nor 1.0 falls outside.

    Raises
    ------
    StageError
        When a confidence lies outside [0, 1] or is not a number.
    """
    value = confidence.astype(np.float64)
    if not np.all((value >= 0) & (value <= 1)):
        raise StageError("confusion: expected confidences in [0, 1]; predictions/confidence holds something else")
    place = np.minimum((value * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    mean = _means(place, value, count)
    accuracy = _means(place, right.astype(np.float64), count)
    full = count > 0
    gap = np.abs(accuracy[full] - mean[full])
    error = float((gap * count[full]).sum() / count.sum()) if len(value) else float("nan")
    hits = np.bincount(place[right], minlength=bins)
    return Calibration(np.linspace(0, 1, bins + 1), count, hits, mean, accuracy, error)


def by_chance(
    confidence: Float[np.ndarray, " image"], bins: int, rng: np.random.Generator, draws: int = 200
) -> tuple[float, float]:
    """The error that a perfectly calibrated network would show all the same, since a bin's images are few.

    Parameters
    ----------
    confidence
        Softmax probability of the predicted class, in [0, 1]; at least one.
    bins
        As in `calibration`.
    rng
        Draws, image by image, whether an answer of that confidence is right.
    draws
        How often all are drawn.

    Returns
    -------
    tuple[float, float]
        Mean, and 95th percentile, of the error.
    """
    value = confidence.astype(np.float64)
    errors = [calibration(value, rng.random(len(value)) < value, bins).error for _ in range(draws)]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def _means(
    place: Int[np.ndarray, " image"], value: Float[np.ndarray, " image"], count: Int[np.ndarray, " bin"]
) -> Float[np.ndarray, " bin"]:
    total = np.bincount(place, weights=value, minlength=len(count))
    return shares(total, count)
