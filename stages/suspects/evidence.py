"""Everything that is known of each label, and what can be counted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from ..contract import Subject
from ..numerics.chance import is_chance
from .ranking import BOTH, HEAD, NEIGHBORS, scored, signal_code


@dataclass(frozen=True)
class Moved:
    """Images of one label that head and vote hold to be of one kind, which the head calls by another class's name."""

    label: int
    answer: int
    images: tuple[int, ...]
    n: int
    absent: bool


@dataclass(frozen=True)
class Seen:
    """What speaks for and against each label.

    Parameters
    ----------
    subject
        What is audited.
    usable
        Images that could be read.
    predicted, voted
        Class that the head gives, and class that the neighbors give; -1 for none.
    self_confidence
        Probability of the label; NaN for none.
    disagreement
        Share of labelled neighbors with another label; NaN for none.
    doubted
        Images that confident learning counts under another class than their label.
    joint
        Images by (label, class that they are confidently in).
    estimate
        Labels that are wrong by the calibrated joint.
    """

    subject: Subject
    usable: Bool[np.ndarray, " image"]
    predicted: Int[np.ndarray, " image"]
    voted: Int[np.ndarray, " image"]
    self_confidence: Float[np.ndarray, " image"]
    disagreement: Float[np.ndarray, " image"]
    doubted: Bool[np.ndarray, " image"]
    joint: Int[np.ndarray, "label truth"]
    estimate: int

    @property
    def label(self) -> Int[np.ndarray, " image"]:
        """Label of each image; -1 for none."""
        return self.subject.label

    @cached_property
    def scored(self) -> Bool[np.ndarray, " image"]:
        """Images of which the head can be asked: with a label and finite logits."""
        return (self.label >= 0) & np.isfinite(self.self_confidence)

    @cached_property
    def judged(self) -> Bool[np.ndarray, " image"]:
        """Images of which head and neighbors both can be asked."""
        return self.scored & (self.voted >= 0) & np.isfinite(self.disagreement)

    @property
    def n(self) -> int:
        """How many are judged."""
        return int(self.judged.sum())

    @cached_property
    def code(self) -> Int[np.ndarray, " image"]:
        """What speaks against each label."""
        return signal_code(self.judged, self.doubted, self.voted != self.label)

    @cached_property
    def order(self) -> tuple[Float[np.ndarray, " image"], Int[np.ndarray, " image"]]:
        """Score and rank of each image."""
        return scored(self.code, self.self_confidence, self.disagreement)

    @property
    def proposal(self) -> Int[np.ndarray, " image"]:
        """Class that head and neighbors both give to a suspect; -1 where they differ, and for all others."""
        agreed = (self.code == BOTH) & (self.predicted == self.voted)
        return np.where(agreed, self.voted, -1).astype(np.int32)

    def count(self, *codes: int) -> int:
        """Images with one of these codes."""
        return int(np.isin(self.code, codes).sum())

    @property
    def by_chance(self) -> float:
        """Suspects to expect if the two signals knew nothing of each other: n times the product of their shares."""
        return self.count(HEAD, BOTH) * self.count(NEIGHBORS, BOTH) / self.n if self.n else 0.0

    def first(self, mask: Bool[np.ndarray, " image"], limit: int) -> tuple[int, ...]:
        """Positions under a mask, by rank."""
        images = np.flatnonzero(mask)
        return tuple(images[np.argsort(self.order[1][images], kind="stable")][:limit].tolist())

    @property
    def knows_nothing(self) -> bool:
        """Whether the head answers no better than chance."""
        asked = self.scored & (self.predicted >= 0)
        return bool(asked.any()) and is_chance(self.label[asked], self.predicted[asked], self.subject.n_class)

    @property
    def n_label(self) -> int:
        """Different labels among the images that the head was asked of."""
        return len(np.unique(self.label[self.scored]))

    def moved(self, min_support: int) -> list[Moved]:
        """Labels whose images the head calls by another name while their neighbors bear the very label.

        That is how labels look that are wrong for a whole class: the neighbors are as wrong and so agree. Told are at
        least `min_support` images, and either half of the label, or answers that no label names.
        """
        named = np.bincount(self.label[self.scored], minlength=self.subject.n_class) > 0
        size = np.bincount(self.label[self.judged], minlength=self.subject.n_class)
        odd = np.flatnonzero(self.judged & (self.predicted != self.label) & (self.voted == self.label))
        pairs, place = np.unique(np.stack([self.label[odd], self.predicted[odd]], axis=1), axis=0, return_inverse=True)
        found = []
        for at, (label, answer) in enumerate(pairs.tolist()):
            images = odd[place.ravel() == at]
            enough = len(images) >= min_support and (not named[answer] or 2 * len(images) >= size[label])
            if enough:
                found.append(Moved(label, answer, tuple(images.tolist()), int(size[label]), not named[answer]))
        return sorted(found, key=lambda one: (-len(one.images), one.label, one.answer))

    def groups(self, column: Sequence[str]) -> list[tuple[str, int, int]]:
        """Judged images and suspects for each value of a column, most suspects first."""
        held, place = np.unique(np.asarray(column, str), return_inverse=True)
        n = np.bincount(place[self.judged], minlength=len(held))
        hit = np.bincount(place[self.code == BOTH], minlength=len(held))
        rows = [(str(value), int(a), int(b)) for value, a, b in zip(held, n, hit, strict=True) if a]
        return sorted(rows, key=lambda row: (-row[2], -row[1], row[0]))
