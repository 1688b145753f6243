"""Numbers and notes of a confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from ..numerics.statistics import wilson
from ..specs import Measurement
from .calibration import Calibration
from .classes import class_rows, known
from .matrix import recall


@dataclass(frozen=True)
class Counted:
    """What was counted over all images that have a label and a prediction.

    Parameters
    ----------
    class_names
        Name of each class.
    matrix
        Images by (label, prediction).
    pair, pair_count, images
        The most confused pairs, how often each occurs, and positions of its most confident images.
    symmetric, symmetric_count, symmetric_images
        The same for pairs that are confused whichever way.
    calibration
        Confidence against accuracy.
    n_unlabelled, n_bad
        Images left out for want of a label, or of a prediction.
    """

    class_names: tuple[str, ...]
    matrix: Int[np.ndarray, "label prediction"]
    pair: Int[np.ndarray, "pair side"]
    pair_count: Int[np.ndarray, " pair"]
    images: tuple[tuple[int, ...], ...]
    symmetric: Int[np.ndarray, "pair side"]
    symmetric_count: Int[np.ndarray, " pair"]
    symmetric_images: tuple[tuple[int, ...], ...]
    calibration: Calibration
    n_unlabelled: int
    n_bad: int

    @property
    def n(self) -> int:
        """Images counted."""
        return int(self.matrix.sum())


def measurements(counted: Counted, min_support: int) -> tuple[Measurement, ...]:
    """Worst and mean recall, and the calibration error."""
    support = counted.matrix.sum(axis=1)
    value = recall(counted.matrix)
    return (
        *_worst_recall(counted, min_support),
        Measurement(
            "confusion/mean_recall",
            float(value[support > 0].mean()),
            "1",
            "higher",
            counted.n,
            "confusion/matrix",
            "Mean over the labels that have images of the share of their images answered right (balanced accuracy).",
        ),
        Measurement(
            "confusion/ece",
            counted.calibration.error,
            "1",
            "lower",
            counted.n,
            "predictions/confidence",
            f"Expected calibration error: mean |accuracy - confidence| over {len(counted.calibration.count)} bins of "
            "equal width, weighted by images; a bin holds its lower border, the last one 1.0 too.",
        ),
    )


def _worst_recall(counted: Counted, min_support: int) -> tuple[Measurement, ...]:
    support = counted.matrix.sum(axis=1)
    enough = np.flatnonzero(support >= min_support)
    if not len(enough):
        return ()
    value = recall(counted.matrix)[enough]
    worst = int(enough[np.argmin(value)])
    low, high = wilson(int(counted.matrix[worst, worst]), int(support[worst]))
    told = (
        f"Lowest recall among the labels with at least {min_support} images: {counted.class_names[worst]}. The "
        "bounds are this label's own; ties: first label."
    )
    name, path = "confusion/worst_recall", "confusion/matrix"
    return (Measurement(name, float(value.min()), "1", "higher", int(support[worst]), path, told, low, high),)


def notes(counted: Counted, min_support: int) -> dict[str, Any]:
    """Rows per class, pair and bin, for the report; a share that nothing was counted for is null."""
    support, answered = counted.matrix.sum(axis=1), counted.matrix.sum(axis=0)
    sparse = {"confusion/worst_recall": f"no label has {min_support} images (confusion.min_support)"}
    return {
        "status": "measured",
        "not_applicable": {} if (support >= min_support).any() else sparse,
        "n": counted.n,
        "images_without_label": counted.n_unlabelled,
        "images_without_prediction": counted.n_bad,
        "classes": class_rows(counted.class_names, counted.matrix),
        "never_predicted": np.flatnonzero((answered == 0) & (support > 0)).tolist(),
        "absent": np.flatnonzero(support == 0).tolist(),
        "pairs": _pairs(counted),
        "symmetric": _symmetric(counted),
        "calibration": _bins(counted.calibration),
    }


def _pairs(counted: Counted) -> list[dict[str, Any]]:
    support = counted.matrix.sum(axis=1)
    return [
        {
            "label": int(label),
            "prediction": int(answer),
            "count": int(count),
            "share": float(count / support[label]),
            "bounds": list(wilson(int(count), int(support[label]))),
            "images": list(images),
        }
        for (label, answer), count, images in zip(counted.pair, counted.pair_count, counted.images, strict=True)
    ]


def _symmetric(counted: Counted) -> list[dict[str, Any]]:
    """Both counts of each pair, and their sum as a share of all images of the two labels."""
    matrix, support = counted.matrix, counted.matrix.sum(axis=1)
    found = zip(counted.symmetric, counted.symmetric_count, counted.symmetric_images, strict=True)
    return [
        {
            "classes": [int(a), int(b)],
            "counts": [int(matrix[a, b]), int(matrix[b, a])],
            "count": int(count),
            "share": float(count / (support[a] + support[b])),
            "bounds": list(wilson(int(count), int(support[a] + support[b]))),
            "images": list(images),
        }
        for (a, b), count, images in found
    ]


def _bins(calibration: Calibration) -> list[dict[str, Any]]:
    return [
        {
            "low": float(calibration.edges[i]),
            "high": float(calibration.edges[i + 1]),
            "n": int(calibration.count[i]),
            "confidence": known(calibration.confidence[i]),
            "accuracy": known(calibration.accuracy[i]),
            "bounds": [known(bound) for bound in wilson(int(calibration.right[i]), int(calibration.count[i]))],
        }
        for i in range(len(calibration.count))
    ]
