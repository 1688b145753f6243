"""Numbers, findings and notes of the kNN check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..contract import Subject
from ..numerics.chance import is_chance
from ..numerics.statistics import wilson
from ..specs import Finding, Measurement
from .duplicates import in_conflict
from .vote import Triangle

# In front of what answers at chance make meaningless.
DOUBT = "The network answers no better than chance: settle that first. "


@dataclass(frozen=True)
class Seen:
    """Everything the kNN check knows of each image.

    Parameters
    ----------
    subject
        What is audited.
    definition
        Which neighbors, in words.
    valid, usable
        Images that could be read, and those of them that have neighbors.
    head, voted
        Class the network gives, and class the neighbors give; -1 for none.
    confidence
        Softmax probability of `head`.
    agreement
        Share of neighbors with the image's own label.
    triangle
        Head, neighbors and label against each other.
    duplicates
        Groups of images with equal content.
    """

    subject: Subject
    definition: str
    valid: Bool[np.ndarray, " image"]
    usable: Bool[np.ndarray, " image"]
    head: Int[np.ndarray, " image"]
    voted: Int[np.ndarray, " image"]
    confidence: Float[np.ndarray, " image"]
    agreement: Float[np.ndarray, " image"]
    triangle: Triangle
    duplicates: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        """Images with a label, a prediction and a vote."""
        return int(self.triangle.judged.sum())

    def ranked(self, mask: Bool[np.ndarray, " image"], limit: int) -> tuple[int, ...]:
        """Positions under a mask: the surest heads over the fewest neighbors of the own label first."""
        images = np.flatnonzero(mask)
        order = np.lexsort((images, -self.confidence[images], self.agreement[images]))
        return tuple(images[order][:limit].tolist())

    @property
    def knows_nothing(self) -> bool:
        """Whether the head answers no better than chance; False where nothing was judged."""
        judged = self.triangle.judged
        return bool(judged.any()) and is_chance(self.subject.label[judged], self.head[judged], self.subject.n_class)

    @property
    def label_conflicts(self) -> tuple[tuple[int, ...], ...]:
        """Duplicates whose labels differ."""
        return in_conflict(self.duplicates, self.subject.label.tolist(), -1)

    @property
    def split_conflicts(self) -> tuple[tuple[int, ...], ...]:
        """Duplicates that stand in different splits."""
        return in_conflict(self.duplicates, self.subject.split, "")


def measurements(seen: Seen) -> tuple[Measurement, ...]:
    """Accuracy of the neighbors, the gap to the head, label suspects, purity, and duplicates."""
    copies = sum(len(group) - 1 for group in seen.duplicates)
    exact = "equal content digests"
    counts = (
        _count("neighbors/duplicate_count", copies, seen, f"Images beyond the first of each group of {exact}."),
        _count(
            "neighbors/conflict_count", len(seen.label_conflicts), seen, f"Groups of {exact} with different labels."
        ),
    )
    return (*_of_labels(seen), *counts) if seen.n else counts


def _count(name: str, value: int, seen: Seen, meaning: str) -> Measurement:
    return Measurement(name, float(value), "1", "lower", seen.subject.n_image, "images", meaning)


def _of_labels(seen: Seen) -> tuple[Measurement, ...]:
    n, sides = seen.n, seen.triangle
    right = int((sides.both_right | sides.neighbors_only).sum())
    head = int((sides.both_right | sides.head_only).sum())
    suspect, path = int(sides.suspect.sum()), "neighbors/predicted"
    meaning = (
        f"Share of images whose label is the most frequent among their {seen.definition}; ties: the nearest bearer's."
    )
    gap = "Accuracy of the neighbors minus that of the head, on the same images: above 0, the features know more."
    purity = f"Mean share of labelled neighbors with the image's own label; {seen.definition}."
    pure = seen.agreement[sides.judged]
    return (
        Measurement("neighbors/accuracy", right / n, "1", "higher", n, path, meaning, *wilson(right, n)),
        Measurement("neighbors/gap", (right - head) / n, "1", "lower", n, path, gap),
        Measurement(
            "neighbors/suspect_fraction",
            suspect / n,
            "1",
            "lower",
            n,
            path,
            "Share of images where head and neighbors agree on a class that is not the label.",
            *wilson(suspect, n),
        ),
        Measurement("neighbors/purity", float(pure.mean()), "1", "higher", n, "neighbors/index", purity),
    )


def findings(seen: Seen, examples: int) -> tuple[Finding, ...]:
    """Duplicates in conflict, label suspects, what the head misses, and images without neighbors."""
    return (*_duplicates(seen, examples), *_sides(seen, examples), *_lost(seen, examples))


def _duplicates(seen: Seen, examples: int) -> tuple[Finding, ...]:
    found = []
    if seen.label_conflicts:
        found.append(
            Finding(
                "neighbors/conflicting-duplicates",
                "warning",
                f"{_images(seen.label_conflicts)} more than once under different labels",
                f"{_listed(seen, seen.label_conflicts)}; the bytes are equal, so at least one label of each is wrong. "
                "What next: look at each, keep one label, and correct or remove the other copies.",
                _flat(seen.label_conflicts, examples),
            )
        )
    if seen.split_conflicts:
        found.append(
            Finding(
                "neighbors/leaking-duplicates",
                "warning",
                f"{_images(seen.split_conflicts)} in more than one split",
                f"{_listed(seen, seen.split_conflicts)}. What was trained on cannot test: accuracy on "
                "them is too high. What next: remove the copies from one split.",
                _flat(seen.split_conflicts, examples),
            )
        )
    if seen.duplicates:
        found.append(
            Finding(
                "neighbors/duplicates",
                "info",
                f"{_images(seen.duplicates)} more than once",
                f"{_listed(seen, seen.duplicates)}. They weigh several times in every number. "
                "What next: remove the copies, unless they are meant.",
                _flat(seen.duplicates, examples),
            )
        )
    return tuple(found)


def _sides(seen: Seen, examples: int) -> tuple[Finding, ...]:
    found = []
    missed, caught = int(seen.triangle.neighbors_only.sum()), int(seen.triangle.head_only.sum())
    if seen.triangle.suspect.any():
        found.append(
            Finding(
                "neighbors/label-suspects",
                "info" if seen.knows_nothing else "warning",
                f"{int(seen.triangle.suspect.sum())} of {seen.n} labels may be wrong",
                f"{DOUBT if seen.knows_nothing else ''}Head and neighbors agree with each other against these labels. "
                "Candidates for a look, not proof: both rest on the same features and so share their mistakes. What "
                "next: look at the images, surest first; correct the labels that are wrong, and take the others for "
                "errors of the model.",
                seen.ranked(seen.triangle.suspect, examples),
            )
        )
    if missed:
        found.append(
            Finding(
                "neighbors/head-misses",
                # Beyond doubt when these outnumber the images that the head alone gets right.
                "warning" if wilson(missed, missed + caught)[0] > 0.5 else "info",
                f"The head misses {missed} of {seen.n} images that their neighbors get right",
                "The features tell these apart, and the last layer does not. What next: if there are many, train the "
                "last layer again (on balanced classes) before anything deeper.",
                seen.ranked(seen.triangle.neighbors_only, examples),
            )
        )
    return tuple(found)


def _lost(seen: Seen, examples: int) -> tuple[Finding, ...]:
    lost = np.flatnonzero(seen.valid & ~seen.usable)
    if not len(lost):
        return ()
    return (
        Finding(
            "neighbors/no-direction",
            "warning",
            f"{len(lost)} images have features without a distance to others",
            "Their features are all zero (which has no direction for the cosine) or not finite; they have no neighbors "
            "and are nobody's. What next: look for dead channels before the head, or set neighbors.metric=euclidean.",
            tuple(lost[:examples].tolist()),
        ),
    )


def notes(seen: Seen, examples: int) -> dict[str, Any]:
    """Counts of the triangle, purity per class, and positions of images to show."""
    sides = seen.triangle
    groups = ("both_right", "head_only", "neighbors_only", "suspect", "hard")
    reason = {} if seen.n else {"reason": "no image has a label, a prediction and labelled neighbors"}
    return {
        "status": "measured" if seen.n else "not applicable",
        **reason,
        "n": seen.n,
        "without_neighbors": int((seen.valid & ~seen.usable).sum()),
        "triangle": {group: int(getattr(sides, group).sum()) for group in groups},
        "images": {group: list(seen.ranked(getattr(sides, group), examples)) for group in groups[1:]},
        "purity": [_purity(seen, i) for i in range(seen.subject.n_class)],
        "duplicates": [list(group) for group in seen.duplicates[:examples]],
        "definition": f"{seen.definition}; leave-one-out among the audited images; ties by lowest position.",
    }


def _purity(seen: Seen, label: int) -> dict[str, Any]:
    share = seen.agreement[(seen.subject.label == label) & ~np.isnan(seen.agreement)]
    mean = float(share.mean()) if len(share) else math.nan
    name = seen.subject.class_names[label]
    return {"class": label, "name": name, "purity": None if math.isnan(mean) else mean, "n": len(share)}


def _images(groups: tuple[tuple[int, ...], ...]) -> str:
    return "1 image occurs" if len(groups) == 1 else f"{len(groups)} images occur"


def _listed(seen: Seen, groups: tuple[tuple[int, ...], ...], limit: int = 3) -> str:
    shown = "; ".join(" = ".join(seen.subject.image_id[i] for i in group[:4]) for group in groups[:limit])
    return shown + (f"; and {len(groups) - limit} more" if len(groups) > limit else "")


def _flat(groups: tuple[tuple[int, ...], ...], limit: int) -> tuple[int, ...]:
    return tuple(position for group in groups for position in group)[:limit]
