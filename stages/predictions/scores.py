"""What a row of logits says: the class, how sure, and by how much."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def usable(logit: Float[np.ndarray, "image class"]) -> Bool[np.ndarray, " image"]:
    """Tell which rows hold nothing but finite numbers."""
    return np.asarray(np.isfinite(logit).all(axis=1))


def predicted_class(logit: Float[np.ndarray, "image class"]) -> Int[np.ndarray, " image"]:
    """Position of the largest logit; the lowest of several equal ones, -1 for a row that is not finite."""
    return np.where(usable(logit), logit.argmax(axis=1), -1).astype(np.int32)


def confidence(logit: Float[np.ndarray, "image class"]) -> Float[np.ndarray, " image"]:
    """Softmax probability of the predicted class.

    Parameters
    ----------
    logit
        One row per image.

    Returns
    -------
    Float[np.ndarray, " image"]
        Between ``1 / class`` and 1, float64; NaN for a row that is not finite.
    """
    finite = usable(logit)
    wide = np.where(finite[:, None], logit, 0).astype(np.float64)
    share = 1 / np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)
    return np.where(finite, share, np.nan)


def margin(logit: Float[np.ndarray, "image class"]) -> Float[np.ndarray, " image"]:
    """Largest logit minus the second largest.

    Parameters
    ----------
    logit
        One row per image.

    Returns
    -------
    Float[np.ndarray, " image"]
        Zero or more, in logits, float64; NaN for a row that is not finite or has a single class.
    """
    if logit.shape[1] < 2:
        return np.full(len(logit), np.nan)
    finite = usable(logit)
    wide = np.where(finite[:, None], logit, 0).astype(np.float64)
    second, first = np.partition(wide, -2, axis=1)[:, -2:].T
    return np.where(finite, first - second, np.nan)
