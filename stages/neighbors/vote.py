"""What the labels of neighbors say about an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

#: Sides of the triangle, in the order of their codes.
SIDES = ("both_right", "head_only", "neighbors_only", "suspect", "hard")


def vote(label: Int[np.ndarray, "image neighbor"]) -> Int[np.ndarray, " image"]:
    """The most frequent label among each image's neighbors.

    Parameters
    ----------
    label
        Label of each neighbor, nearest first; -1 for one without, which has no vote.

    Returns
    -------
    ndarray
        Among equally frequent labels, the one whose nearest bearer is nearest; -1 where no neighbor has a label.
    """
    # Votes for the label of each neighbor, counted at that neighbor's place: the first largest one settles ties.
    support = np.zeros(label.shape, np.int64)
    for column in label.T:
        support += label == column[:, None]
    support[label < 0] = 0
    first = support.argmax(axis=1)
    rows = np.arange(len(label))
    return np.where(support[rows, first] > 0, label[rows, first], -1).astype(np.int32)


def agreement(label: Int[np.ndarray, "image neighbor"], own: Int[np.ndarray, " image"]) -> Float[np.ndarray, " image"]:
    """Share of an image's labelled neighbors that bear its own label; NaN where labels are missing."""
    voters = (label >= 0).sum(axis=1)
    same = ((label == own[:, None]) & (own[:, None] >= 0)).sum(axis=1)
    return np.divide(same, voters, out=np.full(len(label), np.nan), where=(voters > 0) & (own >= 0))


@dataclass(frozen=True)
class Triangle:
    """Head, neighbors and label held against each other; masks over all images.

    Parameters
    ----------
    judged
        Images that have a label, a prediction of the head and a vote of the neighbors.
    both_right
        Head and neighbors both give the label.
    head_only
        The head is right and the neighbors are wrong.
    neighbors_only
        The head is wrong and the neighbors are right: the features know it, the head does not say it.
    suspect
        Both are wrong and agree with each other: the label is suspect.
    hard
        Both are wrong and disagree.
    """

    judged: Bool[np.ndarray, " image"]
    both_right: Bool[np.ndarray, " image"]
    head_only: Bool[np.ndarray, " image"]
    neighbors_only: Bool[np.ndarray, " image"]
    suspect: Bool[np.ndarray, " image"]
    hard: Bool[np.ndarray, " image"]

    @property
    def code(self) -> Int[np.ndarray, " image"]:
        """Position of each image's side in `SIDES`; -1 for an image that is not judged."""
        code = np.full(len(self.judged), -1, np.int8)
        for place, side in enumerate(SIDES):
            code[getattr(self, side)] = place
        return code


def triangle(
    label: Int[np.ndarray, " image"], head: Int[np.ndarray, " image"], voted: Int[np.ndarray, " image"]
) -> Triangle:
    """Sort images by who agrees with whom; -1 stands for an answer that is missing."""
    judged = (label >= 0) & (head >= 0) & (voted >= 0)
    head_right, voted_right = judged & (head == label), judged & (voted == label)
    wrong = judged & ~head_right & ~voted_right
    return Triangle(
        judged=judged,
        both_right=head_right & voted_right,
        head_only=head_right & ~voted_right,
        neighbors_only=voted_right & ~head_right,
        suspect=wrong & (head == voted),
        hard=wrong & (head != voted),
    )
