"""How strongly two signals together speak against a label."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

#: What the code of an image means, by position; -1: not judged.
SIGNALS = ("neither", "head", "neighbors", "both")
NEITHER, HEAD, NEIGHBORS, BOTH = range(4)


def signal_code(
    judged: Bool[np.ndarray, " image"], head: Bool[np.ndarray, " image"], neighbors: Bool[np.ndarray, " image"]
) -> Int[np.ndarray, " image"]:
    """Position in `SIGNALS` of what speaks against each label; -1 for an image that is not judged."""
    return np.where(judged, head * HEAD + neighbors * NEIGHBORS, -1).astype(np.int8)


def strength(value: Float[np.ndarray, " image"]) -> Float[np.ndarray, " image"]:
    """Share of images with a smaller value, equal ones counted half; between 0 and 1."""
    return (rankdata(value) - 0.5) / max(1, len(value))


def scored(
    code: Int[np.ndarray, " image"],
    self_confidence: Float[np.ndarray, " image"],
    disagreement: Float[np.ndarray, " image"],
) -> tuple[Float[np.ndarray, " image"], Int[np.ndarray, " image"]]:
    """Score and rank of every judged image.

    Parameters
    ----------
    code
        Of `signal_code`.
    self_confidence
        Probability of the label, 0 to 1.
    disagreement
        Share of labelled neighbors with another label, 0 to 1.

    Returns
    -------
    tuple
        Score: mean of two shares, that of judged images with a larger self-confidence and that of those with a smaller
        disagreement, equal ones counted half; NaN where not judged. Rank from 1: images with two signals against the
        label, then those with one, then the rest, each by falling score, ties by position; -1 where not judged.
    """
    judged = np.flatnonzero(code >= 0)
    score, rank = np.full(len(code), np.nan), np.full(len(code), -1, np.int64)
    score[judged] = (strength(-self_confidence[judged]) + strength(disagreement[judged])) / 2
    against = np.array([0, 1, 1, 2])[code[judged]]
    rank[judged[np.lexsort((judged, -score[judged], -against))]] = np.arange(1, len(judged) + 1)
    return score, rank
