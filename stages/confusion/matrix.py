"""The confusion matrix and what is read off it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from ..numerics.statistics import shares, wilson


def confusion_matrix(
    label: Int[np.ndarray, " image"], predicted: Int[np.ndarray, " image"], n_class: int
) -> Int[np.ndarray, "label prediction"]:
    """Count how often each class was answered with each class.

    Parameters
    ----------
    label, predicted
        Class positions, 0 to `n_class` - 1.
    n_class
        Number of classes.

    Returns
    -------
    ndarray
        Images by (true label, predicted class): rows sum to the support of a label.
    """
    flat = label.astype(np.int64) * n_class + predicted
    return np.bincount(flat, minlength=n_class * n_class).reshape(n_class, n_class).astype(np.int64)


def recall(matrix: Int[np.ndarray, "label prediction"]) -> Float[np.ndarray, " label"]:
    """Share of each label's images that were answered right; NaN for a label without images."""
    return shares(np.diagonal(matrix), matrix.sum(axis=1))


def precision(matrix: Int[np.ndarray, "label prediction"]) -> Float[np.ndarray, " prediction"]:
    """Share of each answer that was right; NaN for a class that was never answered."""
    return shares(np.diagonal(matrix), matrix.sum(axis=0))


def mistakes(matrix: Int[np.ndarray, "label prediction"]) -> Int[np.ndarray, "label prediction"]:
    """The wrong answers alone: the same counts with nothing on the diagonal."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    return wrong


def confused_pairs(matrix: Int[np.ndarray, "label prediction"], limit: int) -> Int[np.ndarray, "pair side"]:
    """The directed pairs (label, prediction) that are confused most often.

    Parameters
    ----------
    matrix
        Confusion matrix.
    limit
        How many pairs at most.

    Returns
    -------
    ndarray
        Pairs by falling count; ties by label, then by prediction. Pairs that never occur are left out.
    """
    wrong = mistakes(matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")
    order = order[wrong.flat[order] > 0][:limit]
    return np.stack(np.unravel_index(order, matrix.shape), axis=1).astype(np.int32)


def symmetric_pairs(matrix: Int[np.ndarray, "label prediction"], limit: int) -> Int[np.ndarray, "pair side"]:
    """The pairs of classes that are confused most often, whichever is taken for the other.

    Parameters
    ----------
    matrix
        Confusion matrix.
    limit
        How many pairs at most.

    Returns
    -------
    ndarray
        Pairs (a, b) with a < b by falling sum of both counts; ties by a, then by b. Pairs that never occur are left
        out.
    """
    return confused_pairs(np.triu(matrix + matrix.T, 1), limit)


def best_order(matrix: Int[np.ndarray, "label prediction"]) -> tuple[Int[np.ndarray, " label"], float]:
    """The one-to-one renaming of answers under which most images would be right, and their share.

    Far above the accuracy, it says that the classes of the model stand in another order than those of the data.
    """
    _, answer = linear_sum_assignment(-matrix)
    total = matrix.sum()
    return answer, float(matrix[np.arange(len(matrix)), answer].sum() / total) if total else float("nan")


def renamed_labels(matrix: Int[np.ndarray, "label prediction"], answer: Int[np.ndarray, " label"]) -> tuple[int, ...]:
    """The labels that a renaming moves and that most images agree on, where such labels exchange answers in a ring.

    Parameters
    ----------
    matrix
        Confusion matrix.
    answer
        The renaming: which answer stands for which label.

    Returns
    -------
    tuple[int, ...]
        Labels whose images are given another class's name in most cases (lower 95 % bound above one half), and whose
        name in turn goes to another of them; two classes that were swapped are the smallest ring.
    """
    support = matrix.sum(axis=1)
    moved = {
        label: int(given)
        for label, given in enumerate(answer)
        if given != label and support[label] and wilson(int(matrix[label, given]), int(support[label]))[0] > 0.5
    }
    # Chains that end outside are ordinary confusion.
    while any(given not in moved for given in moved.values()):
        moved = {label: given for label, given in moved.items() if given in moved}
    return tuple(moved)
