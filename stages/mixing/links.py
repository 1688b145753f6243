"""Which classes the neighbors of each class belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

_ROWS = 16_384


@dataclass(frozen=True)
class Links:
    """Neighbor links between classes.

    Parameters
    ----------
    count
        Links from an image of the class (row) to a neighbor of the other (column).
    asked
        Images of each class that have a labelled neighbor.
    share
        Of the links that start in either class, those that end in the other one; NaN without links.
    chance
        What that share would be if neighbors were drawn from all labelled images: (L_a n_b + L_b n_a) / (n - 1) over
        L_a + L_b, where L counts a class's links and n its images.
    """

    count: Int[np.ndarray, "class neighbor"]
    asked: Int[np.ndarray, " class"]
    share: Float[np.ndarray, "class other"]
    chance: Float[np.ndarray, "class other"]

    @property
    def enrichment(self) -> Float[np.ndarray, "class other"]:
        """`share` over `chance`: 1 for neighbors that know nothing of classes."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.share / self.chance


def links(index: Any, usable: Bool[np.ndarray, " image"], label: Int[np.ndarray, " image"], n_class: int) -> Links:
    """Count links by class, some rows at a time.

    Parameters
    ----------
    index
        Anything whose slices are arrays ``(image, neighbor)`` of positions, -1 for none.
    usable
        Images that were searched and have a label; links to others are not counted.
    label
        Class positions; -1 for none.
    n_class
        Number of classes.
    """
    count, asked = np.zeros(n_class * n_class, np.int64), np.zeros(n_class, np.int64)
    for a in range(0, len(usable), _ROWS):
        near = np.asarray(index[a : a + _ROWS])
        known = (near >= 0) & usable[np.maximum(near, 0)] & usable[a : a + _ROWS, None]
        row, _ = np.nonzero(known)
        start = label[a + row].astype(np.int64)
        count += np.bincount(start * n_class + label[near[known]], minlength=n_class * n_class)
        asked += np.bincount(label[a + np.flatnonzero(known.any(axis=1))], minlength=n_class)
    table = count.reshape(n_class, n_class)
    held = np.bincount(label[usable], minlength=n_class)
    total = table.sum(axis=1)
    both = total[:, None] + total
    expected = (total[:, None] * held + total * held[:, None]) / max(1, int(held.sum()) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share, chance = (table + table.T) / both, expected / both
    np.fill_diagonal(share, np.nan)
    np.fill_diagonal(chance, np.nan)
    return Links(table, asked, share, chance)
