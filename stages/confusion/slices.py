"""Accuracy by the columns that the data come with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.stats import hypergeom

from ..numerics.statistics import wilson
from ..specs import Finding, Measurement

# A slice is weak where it is this far below the rest, and chance explains that in less than one audit of 20.
_GAP, _LEVEL = 0.05, 0.05


@dataclass(frozen=True)
class Slice:
    """Images that share a value of a column.

    Parameters
    ----------
    column, value
        What they share.
    images
        Their positions in the data set.
    n, right
        How many have a label and a prediction, and how many of those are right.
    rest, rest_right
        The same for all other images.
    chance
        Probability that as few are right among as many images drawn from all; one-sided, 0 to 1.
    """

    column: str
    value: str
    images: Int[np.ndarray, " image"]
    n: int
    right: int
    rest: int
    rest_right: int
    chance: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.n


def slices(
    columns: Mapping[str, Sequence[str]],
    position: Int[np.ndarray, " image"],
    right: Bool[np.ndarray, " image"],
    min_support: int,
) -> list[Slice]:
    """Cut the images by every value of every column.

    Parameters
    ----------
    columns
        One text per image of the data set, by column.
    position
        The images that have a label and a prediction.
    right
        Which of those are answered right.
    min_support
        Slices with fewer images come last.

    Returns
    -------
    list[Slice]
        By column; in each the least accurate first, ties by value, and then the small ones, by value.
    """
    found = []
    for column, texts in columns.items():
        values, place = np.unique(np.asarray(texts, dtype=np.str_)[position], return_inverse=True)
        count, hits = np.bincount(place, minlength=len(values)), np.bincount(place[right], minlength=len(values))
        chance = hypergeom.cdf(hits, len(position), int(right.sum()), count)
        members = np.split(position[np.argsort(place, kind="stable")], np.cumsum(count)[:-1])
        rows = [
            Slice(
                column,
                str(value),
                members[at],
                n := int(count[at]),
                k := int(hits[at]),
                len(position) - n,
                int(right.sum()) - k,
                float(chance[at]),
            )
            for at, value in enumerate(values)
        ]
        found += sorted(rows, key=lambda row: (row.n < min_support, row.accuracy if row.n >= min_support else 0.0))
    return found


def slice_notes(found: Sequence[Slice], min_support: int, most: int) -> list[dict[str, Any]]:
    """Rows per column for the report, and how many values were left out; a comparison without a rest is null."""
    columns = dict.fromkeys(row.column for row in found)
    told = []
    for column in columns:
        rows = [row for row in found if row.column == column]
        told.append(
            {
                "column": column,
                "hidden": max(0, len(rows) - most),
                "values": [
                    {
                        "value": row.value,
                        "n": row.n,
                        "right": row.right,
                        "accuracy": row.accuracy,
                        "bounds": list(wilson(row.right, row.n)),
                        "rest": row.rest_right / row.rest if row.rest else None,
                        "chance": row.chance if row.rest else None,
                        "small": row.n < min_support,
                    }
                    for row in rows[:most]
                ],
            }
        )
    return told


def slice_measurements(found: Sequence[Slice], min_support: int) -> tuple[Measurement, ...]:
    """Accuracy of the worst slice that has enough images; none where no slice has."""
    enough = [row for row in found if row.n >= min_support]
    if not enough:
        return ()
    worst = min(enough, key=lambda row: row.accuracy)
    meaning = (
        f"Lowest accuracy among the values with at least {min_support} images of the data's slice columns: "
        f"{worst.column}={worst.value}. The bounds are this slice's own; ties: first column, then first value."
    )
    low, high = wilson(worst.right, worst.n)
    path = "predictions/predicted"
    name = "confusion/worst_slice"
    return (Measurement(name, worst.accuracy, "1", "higher", worst.n, path, meaning, low, high),)


def slices_missing(found: Sequence[Slice], min_support: int) -> dict[str, str]:
    """Why there is no worst slice; empty where there is one."""
    if any(row.n >= min_support for row in found):
        return {}
    few = f"no slice has {min_support} images (confusion.min_support)"
    return {"confusion/worst_slice": few if found else "the data come with no columns to slice by (data.slices)"}


def slice_findings(found: Sequence[Slice], min_support: int, wrong: Sequence[int]) -> tuple[Finding, ...]:
    """Slices that are weaker than the rest of the images, beyond what trying so many explains.

    Parameters
    ----------
    found
        All slices.
    min_support
        Slices with fewer images are not judged.
    wrong
        Images that are answered wrong, most telling first.
    """
    judged = [row for row in found if row.n >= min_support and row.rest >= min_support]
    weak = [
        row for row in judged if row.chance * len(judged) < _LEVEL and row.rest_right / row.rest - row.accuracy >= _GAP
    ]
    return tuple(_weak(row, len(judged), wrong) for row in sorted(weak, key=lambda row: row.accuracy))


def _weak(row: Slice, tried: int, wrong: Sequence[int]) -> Finding:
    low, high = wilson(row.right, row.n)
    inside, elsewhere = set(row.images.tolist()), row.rest_right / row.rest
    return Finding(
        "confusion/weak-slice",
        "warning",
        f"Accuracy is {row.accuracy:.1%} where {row.column} is {row.value}, and {elsewhere:.1%} elsewhere",
        f"{row.right} of {row.n} right [{low:.1%}, {high:.1%}] against {row.rest_right} of {row.rest}. Were {tried} "
        f"slices drawn at random, one as weak would be among them in {row.chance * tried:.2g} of cases at most. What "
        "next: look at these images; see whether the training data hold such, and whether labels differ there.",
        tuple(image for image in wrong if image in inside)[:12],
    )
