"""Whether a classifier knows anything at all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from .statistics import wilson


def agreement_by_chance(label: Int[np.ndarray, " image"], predicted: Int[np.ndarray, " image"], n_class: int) -> float:
    """Accuracy that answers of the same frequencies would have if they knew nothing of the image.

    The expected agreement of cohen1960: the sum over classes of the share of labels times the share of answers. It is
    1 / classes on balanced data, and the majority's share for a network that always answers the majority.

    Parameters
    ----------
    label, predicted
        Class positions of at least one image.
    n_class
        Number of classes.
    """
    shares = [np.bincount(values, minlength=n_class) / len(values) for values in (label, predicted)]
    return float((shares[0] * shares[1]).sum())


def is_chance(label: Int[np.ndarray, " image"], predicted: Int[np.ndarray, " image"], n_class: int) -> bool:
    """Whether the lower 95 % bound of the accuracy is not above `agreement_by_chance`; False for a single label.

    Parameters
    ----------
    label, predicted
        Class positions of at least one image.
    n_class
        Number of classes.
    """
    if len(np.unique(label)) < 2:
        return False
    low, _ = wilson(int((label == predicted).sum()), len(label))
    return low <= agreement_by_chance(label, predicted, n_class)
