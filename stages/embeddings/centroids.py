"""Where classes lie in feature space, and how far apart (davies1979)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..specs import ArraySpec
from .rows import Rows

CENTROID = ArraySpec(
    "centroid", ("class", "feature"), "float32", "activation", "Mean of the features of a label; NaN without images."
)
COUNT = ArraySpec("count", ("class",), "int64", "images", "Images of each label that could be used.")
SPREAD = ArraySpec(
    "spread", ("class",), "float32", "activation", "Mean Euclidean distance of a label's images to its centroid."
)
CLASS_DISTANCE = ArraySpec(
    "class_distance", ("class", "other"), "float32", "activation", "Euclidean distance between two centroids."
)
OVERLAP = ArraySpec(
    "overlap",
    ("class", "other"),
    "float32",
    "1",
    "Sum of two spreads over the distance of their centroids; NaN on the diagonal and where both are 0.",
)


@dataclass(frozen=True)
class Centroids:
    """Classes in feature space.

    Parameters
    ----------
    centroid, count, spread, distance, overlap
        As the specs of this module say, in float64; NaN for classes without images.
    """

    centroid: Float[np.ndarray, "class feature"]
    count: Int[np.ndarray, " class"]
    spread: Float[np.ndarray, " class"]
    distance: Float[np.ndarray, "class other"]
    overlap: Float[np.ndarray, "class other"]

    def arrays(self) -> dict[str, np.ndarray]:
        """By the paths of the specs, as they are stored."""
        pairs = (
            (CENTROID, self.centroid), (COUNT, self.count), (SPREAD, self.spread), (CLASS_DISTANCE, self.distance),
            (OVERLAP, self.overlap),
        )  # fmt: skip
        return {spec.path: values.astype(spec.dtype) for spec, values in pairs}

    def worst_overlap(self) -> float:
        """Mean over classes of the largest overlap with another: the index of davies1979; NaN for under two classes.

        Infinite where two classes have one centroid and not both are points.
        """
        held = np.flatnonzero(self.count)
        if len(held) < 2:
            return float("nan")
        among = self.overlap[np.ix_(held, held)]
        return float(np.where(np.isnan(among), -np.inf, among).max(axis=1).mean())


def class_centroids(rows: Rows, label: Int[np.ndarray, " image"], n_class: int) -> Centroids:
    """Mean, spread and mutual distances of classes; images without a label take no part.

    Parameters
    ----------
    rows
        Features, read twice.
    label
        Class of each image, usable or not; -1 for none.
    n_class
        Number of classes.
    """
    total, count = np.zeros((n_class, rows.width)), np.zeros(n_class, np.int64)
    for position, features in rows.blocks():
        own = label[position]
        np.add.at(total, own[own >= 0], features[own >= 0])
        count += np.bincount(own[own >= 0], minlength=n_class)
    with np.errstate(invalid="ignore"):
        centroid = total / count[:, None]
    far = np.zeros(n_class)
    for position, features in rows.blocks():
        own = label[position]
        away = np.sqrt(((features[own >= 0] - centroid[own[own >= 0]]) ** 2).sum(axis=1))
        far += np.bincount(own[own >= 0], weights=away, minlength=n_class)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = far / count
        distance = np.stack([np.sqrt(((centroid - one) ** 2).sum(axis=1)) for one in centroid])
        overlap = (spread[:, None] + spread[None]) / distance
    np.fill_diagonal(overlap, np.nan)
    return Centroids(centroid, count, spread, distance, overlap)
