"""What the probabilities of all classes are worth, counted in one pass over the logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import StageError


@dataclass(frozen=True)
class Scores:
    """Proper scores and ranks of labelled images.

    Parameters
    ----------
    nll
        Mean negative logarithm of the label's probability, in nats; 0 or more, NaN without images.
    brier
        Mean squared distance between the probabilities and the label as a one-hot vector, in [0, 2].
    classwise
        Calibration error of each class's probability over all images, in [0, 1]. Shape ``(class,)``.
    confidence
        Largest probability of each image.
    right
        Whether no class stands before the label.
    rank_count
        Images by how many classes stand before their label: those with a larger logit, and those of equal logit that
        come first. Shape ``(class,)``.
    """

    nll: float
    brier: float
    classwise: Float[np.ndarray, " class"]
    confidence: Float[np.ndarray, " image"]
    right: Bool[np.ndarray, " image"]
    rank_count: Int[np.ndarray, " class"]

    def within(self, k: int) -> int:
        """Images whose label is among the first `k` classes."""
        return int(self.rank_count[:k].sum())


def scores(
    blocks: Iterable[tuple[Float[np.ndarray, "image class"], Int[np.ndarray, " image"]]], n_class: int, bins: int
) -> Scores:
    """Score probabilities against labels, block by block.

    Parameters
    ----------
    blocks
        Finite logits and labels of some images each; every image once.
    n_class
        Number of classes.
    bins
        Bins of equal width of the error per class; a bin holds its lower border, the last one 1.0 too.

    Raises
    ------
    StageError
        When a logit is not finite.

    References
    ----------
    Brier 1950; Kull et al. 2019, whose classwise error is the mean of `classwise` over the classes.
    """
    nll = brier = 0.0
    count, mass, hits = np.zeros((3, n_class * bins))
    sure, right, rank_count = [], [], np.zeros(n_class, np.int64)
    for logit, label in blocks:
        if not np.isfinite(logit).all():
            raise StageError("confusion: expected finite logits of images with a prediction; see predictions/logit")
        row = np.arange(len(label))
        p, log_p = _softmax(np.asarray(logit, np.float64), row, label)
        nll -= float(log_p.sum())
        brier += float((p**2).sum() - 2 * p[row, label].sum() + len(row))
        place = np.minimum((p * bins).astype(np.int64), bins - 1) + np.arange(n_class) * bins
        count += np.bincount(place.ravel(), minlength=n_class * bins)
        mass += np.bincount(place.ravel(), weights=p.ravel(), minlength=n_class * bins)
        hits += np.bincount(place[row, label], minlength=n_class * bins)
        rank = _rank(logit, row, label)
        rank_count += np.bincount(rank, minlength=n_class)
        sure.append(p.max(axis=1))
        right.append(rank == 0)
    n = int(rank_count.sum())
    if not n:
        nothing = np.full(n_class, np.nan)
        return Scores(np.nan, np.nan, nothing, np.empty(0), np.empty(0, bool), rank_count)
    gap = np.abs(hits - mass).reshape(n_class, bins).sum(axis=1) / n
    return Scores(nll / n, brier / n, gap, np.concatenate(sure), np.concatenate(right), rank_count)


def _softmax(
    logit: Float[np.ndarray, "image class"], row: Int[np.ndarray, " image"], label: Int[np.ndarray, " image"]
) -> tuple[Float[np.ndarray, "image class"], Float[np.ndarray, " image"]]:
    """Probabilities of all classes, and the logarithm of the label's, which survives where the former is zero."""
    shifted = logit - logit.max(axis=1, keepdims=True)
    power = np.exp(shifted)
    total = power.sum(axis=1, keepdims=True)
    return power / total, shifted[row, label] - np.log(total[:, 0])


def _rank(
    logit: Float[np.ndarray, "image class"], row: Int[np.ndarray, " image"], label: Int[np.ndarray, " image"]
) -> Int[np.ndarray, " image"]:
    own = logit[row, label][:, None]
    first = (logit == own) & (np.arange(logit.shape[1]) < label[:, None])
    return ((logit > own) | first).sum(axis=1)
