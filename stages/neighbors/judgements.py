"""Numbers and notes of the kNN check."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..contract import Subject
from ..numerics.chance import is_chance
from ..numerics.nearest import DECIDED, SPARE
from ..numerics.statistics import wilson
from ..specs import Direction, Measurement
from .duplicates import Groups, in_conflict, joined
from .hubs import outlying, skewness
from .purity import by_value
from .vote import SIDES, Triangle


@dataclass(frozen=True)
class Seen:
    """Everything the kNN check knows of each image.

    Parameters
    ----------
    subject
        What is audited.
    definition
        Which neighbors, in words.
    share
        Of the distance to the k-th neighbor, below which two images are near-duplicates.
    search
        How its neighbors were made sure, or why it has none; -1 for an image that could not be read.
    distance
        To its neighbors; NaN for none.
    head, voted
        Class the network gives, and class the neighbors give; -1 for none.
    confidence
        Softmax probability of `head`.
    agreement
        Share of neighbors with the image's own label.
    triangle
        Head, neighbors and label against each other.
    occurrence
        Images that have it among their neighbors.
    duplicates
        Groups of images with equal content.
    near
        The nearest near-duplicate; -1 for none.
    """

    subject: Subject
    definition: str
    share: float
    search: Int[np.ndarray, " image"]
    distance: Float[np.ndarray, "image neighbor"]
    head: Int[np.ndarray, " image"]
    voted: Int[np.ndarray, " image"]
    confidence: Float[np.ndarray, " image"]
    agreement: Float[np.ndarray, " image"]
    triangle: Triangle
    occurrence: Int[np.ndarray, " image"]
    duplicates: Groups
    near: Int[np.ndarray, " image"]

    @property
    def usable(self) -> Bool[np.ndarray, " image"]:
        """Images that have neighbors."""
        return (self.search >= 0) & (self.search < len(DECIDED))

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

    @cached_property
    def near_groups(self) -> Groups:
        """Images that hang together as near-duplicates."""
        return joined(self.near)

    def of_labels(self, groups: Groups) -> Groups:
        """Groups whose labels differ."""
        return in_conflict(groups, self.subject.label.tolist(), -1)

    def of_splits(self, groups: Groups) -> Groups:
        """Groups that stand in different splits."""
        return in_conflict(groups, self.subject.split, "")

    @property
    def reach(self) -> Float[np.ndarray, " image"]:
        """Distance to the k-th neighbor."""
        return self.distance[:, -1]

    @property
    def same(self) -> Bool[np.ndarray, " image"]:
        """Images whose k neighbors all have the very same features."""
        return self.reach == 0

    @cached_property
    def outlying(self) -> tuple[Bool[np.ndarray, " image"], float]:
        """Images far from all others, and from where on that is said."""
        return outlying(self.reach)

    @property
    def outliers(self) -> Int[np.ndarray, " image"]:
        """Positions of these, the furthest first."""
        images = np.flatnonzero(self.outlying[0])
        return images[np.lexsort((images, -self.reach[images]))]

    @property
    def hubs(self) -> Int[np.ndarray, " image"]:
        """Positions by falling number of images that have them among their neighbors."""
        return np.lexsort((np.arange(len(self.occurrence)), -self.occurrence))


def measurements(seen: Seen) -> tuple[Measurement, ...]:
    """Accuracy of the neighbors, the gap to the head, label suspects, purity, duplicates, leaks, hubness, outliers."""
    return (*_of_labels(seen), *_of_copies(seen), *_of_space(seen))


def _of_copies(seen: Seen) -> tuple[Measurement, ...]:
    exact, near = seen.duplicates, seen.near_groups
    same, alike = "equal content digests", _near(seen)
    split = "that stand in more than one split"
    return (
        _count("duplicate_count", _beyond(exact), seen, f"Images beyond the first of each group of {same}."),
        _count("conflict_count", len(seen.of_labels(exact)), seen, f"Groups of {same} with different labels."),
        _count("leak_count", len(seen.of_splits(exact)), seen, f"Groups of {same} {split}."),
        _count("near_duplicate_count", _beyond(near), seen, f"Images beyond the first of each group of {alike}."),
        _count("near_conflict_count", len(seen.of_labels(near)), seen, f"Groups of {alike} with different labels."),
        _count("near_leak_count", len(seen.of_splits(near)), seen, f"Groups of {alike} {split}."),
    )


def _near(seen: Seen) -> str:
    return (
        f"near-duplicates (not of equal content, and within {seen.share:g} of the Euclidean distance of either to its "
        f"k-th neighbor; {seen.definition})"
    )


def _beyond(groups: Groups) -> int:
    return sum(len(group) - 1 for group in groups)


def _count(name: str, value: int, seen: Seen, meaning: str) -> Measurement:
    nearly = name.startswith("near_")
    n, path = (int(seen.usable.sum()), "neighbors/near") if nearly else (seen.subject.n_image, "neighbors/copy")
    return Measurement(f"neighbors/{name}", float(value), "1", "lower", n, path, meaning)


def _of_space(seen: Seen) -> tuple[Measurement, ...]:
    n = int(seen.usable.sum())
    count = seen.occurrence[seen.usable]
    skewed = (
        "Skewness of how often each image is a neighbor of another (third central moment over the cubed standard "
        f"deviation); {seen.definition}. Above 0, few images are neighbors of many."
    )
    orphans, far = int((count == 0).sum()), int(seen.outlying[0].sum())
    lonely = f"Share of images that are nobody's neighbor; {seen.definition}."
    distant = (
        "Share of images whose k-th neighbor is beyond the third quartile plus three times the distance between the "
        f"quartiles; {seen.definition}."
    )

    def measured(name: str, value: float, direction: Direction, path: str, meaning: str, *bounds: float) -> Measurement:
        return Measurement(f"neighbors/{name}", value, "1", direction, n, f"neighbors/{path}", meaning, *bounds)

    return (
        measured("hubness", skewness(count), "lower", "occurrence", skewed),
        measured("orphan_fraction", orphans / n, "lower", "occurrence", lonely, *wilson(orphans, n)),
        measured("outlier_fraction", far / n, "lower", "distance", distant, *wilson(far, n)),
    )


def _of_labels(seen: Seen) -> tuple[Measurement, ...]:
    if not seen.n:
        return ()
    n, sides = seen.n, seen.triangle
    right = int((sides.both_right | sides.neighbors_only).sum())
    head = int((sides.both_right | sides.head_only).sum())
    suspect, path = int(sides.suspect.sum()), "neighbors/predicted"
    meaning = (
        f"Share of images whose label is the most frequent among their {seen.definition}; ties: the nearest bearer's."
    )
    gap = "Accuracy of the neighbors minus that of the head, on the same images: above 0, the features know more."
    purity = f"Mean share of labelled neighbors with the image's own label; {seen.definition}."
    doubt = "Share of images where head and neighbors agree on a class that is not the label."
    pure = float(seen.agreement[sides.judged].mean(dtype=np.float64))
    return (
        Measurement("neighbors/accuracy", right / n, "1", "higher", n, path, meaning, *wilson(right, n)),
        Measurement("neighbors/gap", (right - head) / n, "1", "lower", n, path, gap),
        Measurement("neighbors/suspect_fraction", suspect / n, "1", "lower", n, path, doubt, *wilson(suspect, n)),
        Measurement("neighbors/purity", pure, "1", "higher", n, "neighbors/agreement", purity),
    )


def notes(seen: Seen, examples: int) -> dict[str, Any]:
    """Counts of the triangle, purity by class and slice, how neighbors were found, and positions of images to show."""
    sides = seen.triangle
    reason = {} if seen.n else {"reason": "no image has a label, a prediction and labelled neighbors"}
    return {
        "status": "measured" if seen.n else "not applicable",
        **reason,
        "n": seen.n,
        "without_neighbors": int((seen.search >= len(DECIDED)).sum()),
        "triangle": {side: int(getattr(sides, side).sum()) for side in SIDES},
        "images": {side: list(seen.ranked(getattr(sides, side), examples)) for side in SIDES[1:]},
        "purity": _by_class(seen),
        "slices": {name: _by_slice(seen, column) for name, column in seen.subject.slices.items()},
        **_copies(seen, examples),
        **_space(seen, examples),
        "searched": {word: int((seen.search == code).sum()) for code, word in enumerate(DECIDED)},
        "definition": f"{seen.definition}, itself left out by position; all audited images of all splits; equally near "
        "ones by position.",
        "exact": f"The k + {SPARE} best by products of 16 or 32 bits, measured again in float64; searched anew in "
        "longer numbers, or pair by pair, where rounding could have hidden a nearer one.",
    }


def _copies(seen: Seen, examples: int) -> dict[str, Any]:
    exact, near = seen.duplicates, seen.near_groups

    def shown(groups: Groups) -> list[list[int]]:
        # What contradicts itself comes first.
        worst = (*seen.of_labels(groups), *seen.of_splits(groups), *groups)
        return [list(group) for group in tuple(dict.fromkeys(worst))[:examples]]

    return {
        "duplicates": shown(exact),
        "duplicate_groups": len(exact),
        "near_duplicates": shown(near),
        "near_groups": len(near),
        "near_definition": f"Two images are {_near(seen)}.",
    }


def _space(seen: Seen, examples: int) -> dict[str, Any]:
    return {
        "hubs": [[int(image), int(seen.occurrence[image])] for image in seen.hubs[:examples]],
        "outliers": [[int(image), float(seen.reach[image])] for image in seen.outliers[:examples]],
        "outlier_fence": None if np.isnan(seen.outlying[1]) else seen.outlying[1],
        "same_features": int(seen.same.sum()),
    }


def _by_class(seen: Seen) -> list[dict[str, Any]]:
    rows = _rows(seen, seen.subject.label.tolist(), range(seen.subject.n_class))
    return [row | {"class": row["value"], "name": seen.subject.class_names[row["value"]]} for row in rows]


def _by_slice(seen: Seen, column: tuple[str, ...]) -> list[dict[str, Any]]:
    return _rows(seen, column, sorted(set(column)))


def _rows(seen: Seen, value: Any, order: Any) -> list[dict[str, Any]]:
    sides = seen.triangle
    right, head_right = sides.both_right | sides.neighbors_only, sides.both_right | sides.head_only
    return by_value(value, order, seen.agreement.astype(np.float64), right, head_right, sides.judged)
