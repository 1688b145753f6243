"""Confident learning (northcutt2021), block by block: cleanlab counts, and what it needs of all images comes first."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

#: Threshold of a class that no label names: no probability reaches it.
ABSENT = 2.0
#: Least threshold, and by how much a probability may stay below one: those of cleanlab.
_FLOOR, _SLACK = 2e-6, 1e-6


def softmax(logit: Float[np.ndarray, "image class"]) -> Float[np.ndarray, "image class"]:
    """Probabilities of all classes in float64; NaN in every place of a row that is not finite."""
    finite = np.asarray(np.isfinite(logit).all(axis=1))
    power = np.where(finite[:, None], logit, 0).astype(np.float64)
    power -= power.max(axis=1, keepdims=True)
    np.exp(power, out=power)
    power /= power.sum(axis=1, keepdims=True)
    power[~finite] = np.nan
    return power


def own_probability(
    p: Float[np.ndarray, "image class"], label: Int[np.ndarray, " image"]
) -> Float[np.ndarray, " image"]:
    """Probability of each image's label (its self-confidence); NaN without a label."""
    return np.where(label >= 0, p[np.arange(len(p)), np.maximum(label, 0)], np.nan)


def thresholds(
    self_confidence: Float[np.ndarray, " image"], label: Int[np.ndarray, " image"], n_class: int
) -> Float[np.ndarray, " class"]:
    """Mean self-confidence of the images of each label (eq. 2 of northcutt2021).

    Parameters
    ----------
    self_confidence
        0 to 1; NaN for an image that does not count.
    label
        -1 for an image without.
    n_class
        Number of classes.

    Returns
    -------
    ndarray
        At least 2e-6, as in cleanlab; `ABSENT` for a class without images, of which nothing can be said.
    """
    known = (label >= 0) & np.isfinite(self_confidence)
    count = np.bincount(label[known], minlength=n_class)
    total = np.bincount(label[known], weights=self_confidence[known], minlength=n_class)
    mean = np.divide(total, count, out=np.full(n_class, ABSENT), where=count > 0)
    return np.where(count > 0, np.clip(mean, _FLOOR, 1.0), ABSENT)


def counted(
    p: Float[np.ndarray, "image class"], label: Int[np.ndarray, " image"], threshold: Float[np.ndarray, " class"]
) -> tuple[Int[np.ndarray, "label truth"], Bool[np.ndarray, " image"]]:
    """Confident joint of some images, and which of them confident learning counts under another class than their label.

    Parameters
    ----------
    p
        Finite probabilities.
    label
        0 or more.
    threshold
        Of all images.

    Returns
    -------
    tuple
        Images by (label, class that they are confidently in), and a mask.

    Notes
    -----
    Eq. 1 of northcutt2021 as cleanlab has it: where several classes reach their thresholds, the most probable class
    counts, which need not be one of them; the paper takes the most probable of those. An image whose label is as
    probable as any class is not held against it, as in cleanlab's own list.

    cleanlab makes each count of the diagonal at least 1, so one surely right image of each class goes in front, and
    out again: the counts of blocks can be added.
    """
    # Half a second, and its many modules, for nobody who does not run this stage.
    from cleanlab.count import compute_confident_joint

    n_class = len(threshold)
    present = np.flatnonzero(threshold < ABSENT)
    joint, off = compute_confident_joint(
        np.concatenate([present, label]),
        np.concatenate([np.eye(n_class)[present], p]),
        thresholds=threshold,
        calibrate=False,
        return_indices_of_off_diagonals=True,
    )
    against = np.zeros(len(label), bool)
    against[np.asarray(off, np.int64) - len(present)] = True
    against &= own_probability(p, label) + _SLACK < p.max(axis=1)
    return np.asarray(joint, np.int64) - np.eye(n_class, dtype=np.int64), against


def estimated_errors(joint: Int[np.ndarray, "label truth"], label: Int[np.ndarray, " image"]) -> int:
    """How many labels are wrong by the calibrated joint (eq. 3 of northcutt2021): images off its diagonal.

    Parameters
    ----------
    joint
        Sum of what `counted` gives.
    label
        Of the images that were counted, 0 or more.
    """
    from cleanlab.count import calibrate_confident_joint

    held = joint.copy()
    np.fill_diagonal(held, np.maximum(held.diagonal(), 1))
    calibrated = np.asarray(calibrate_confident_joint(held, label))
    return int(calibrated.sum() - np.trace(calibrated))
