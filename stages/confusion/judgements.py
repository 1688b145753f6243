"""Numbers, findings and notes of a confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from ..numerics.statistics import wilson
from ..specs import Finding, Measurement
from .calibration import Calibration
from .matrix import best_order, precision, recall

# A renaming has to explain this much more of the images than the given order before the order is doubted.
_ORDER_GAIN = 0.2


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


def findings(counted: Counted, min_support: int) -> tuple[Finding, ...]:
    """Labels without images or with few, classes never answered, and classes in another order."""
    support, answered = counted.matrix.sum(axis=1), counted.matrix.sum(axis=0)
    found = [*_order(counted)]
    never = np.flatnonzero((answered == 0) & (support >= min_support))
    if len(never):
        found.append(
            Finding(
                "confusion/never-predicted",
                "error",
                f"{len(never)} classes are never predicted",
                f"Not one of {counted.n} images was answered with: {_named(counted, never)}, although "
                "their labels occur; look at the last layer's bias, or at the training data of these classes.",
            )
        )
    absent = np.flatnonzero(support == 0)
    if len(absent):
        found.append(
            Finding(
                "confusion/absent-label",
                "warning",
                f"{len(absent)} classes have no images",
                f"Their recall is unknown: {_named(counted, absent)}; add images of them.",
            )
        )
    few = np.flatnonzero((support > 0) & (support < min_support))
    if len(few):
        found.append(
            Finding(
                "confusion/few-images",
                "info",
                f"{len(few)} labels have fewer than {min_support} images",
                f"Their recall is too uncertain to be the worst: {_named(counted, few)}.",
            )
        )
    return tuple(found)


def _order(counted: Counted) -> tuple[Finding, ...]:
    answer, share = best_order(counted.matrix)
    accuracy = np.trace(counted.matrix) / counted.n
    if not share > accuracy + _ORDER_GAIN:
        return ()
    moved = [i for i in np.flatnonzero(answer != np.arange(len(answer))) if counted.matrix[i, answer[i]]]
    swaps = ", ".join(f"{counted.class_names[i]} as {counted.class_names[answer[i]]}" for i in moved[:10])
    return (
        Finding(
            "confusion/class-order",
            "error",
            "The classes of model and data seem to stand in different orders",
            f"Renaming the answers one to one would make {share:.1%} of {counted.n} images right instead of "
            f"{accuracy:.1%}: {swaps}; compare the class names with the order the model was trained with.",
            tuple(image for images in counted.images for image in images[:1]),
        ),
    )


def notes(counted: Counted, min_support: int) -> dict[str, Any]:
    """Rows per class, pair and bin, for the report; a share that nothing was counted for is null."""
    support, answered = counted.matrix.sum(axis=1), counted.matrix.sum(axis=0)
    shares = zip(recall(counted.matrix), precision(counted.matrix), support, answered, strict=True)
    sparse = {"confusion/worst_recall": f"no label has {min_support} images (confusion.min_support)"}
    return {
        "status": "measured",
        "not_applicable": {} if (support >= min_support).any() else sparse,
        "n": counted.n,
        "unlabelled": counted.n_unlabelled,
        "bad": counted.n_bad,
        "classes": [
            {
                "class": i,
                "name": counted.class_names[i],
                "recall": _known(r),
                "recall_bounds": [_known(bound) for bound in wilson(int(counted.matrix[i, i]), int(s))],
                "precision": _known(p),
                "support": int(s),
                "predicted": int(a),
            }
            for i, (r, p, s, a) in enumerate(shares)
        ],
        "pairs": [
            {
                "label": int(label),
                "prediction": int(answer),
                "count": int(count),
                "share": float(count / support[label]),
                "images": list(images),
            }
            for (label, answer), count, images in zip(counted.pair, counted.pair_count, counted.images, strict=True)
        ],
        "calibration": _bins(counted.calibration),
    }


def _bins(calibration: Calibration) -> list[dict[str, Any]]:
    return [
        {
            "low": float(calibration.edges[i]),
            "high": float(calibration.edges[i + 1]),
            "n": int(calibration.count[i]),
            "confidence": _known(calibration.confidence[i]),
            "accuracy": _known(calibration.accuracy[i]),
        }
        for i in range(len(calibration.count))
    ]


def _named(counted: Counted, classes: np.ndarray, limit: int = 10) -> str:
    names = ", ".join(counted.class_names[i] for i in classes[:limit])
    return names + (f" and {len(classes) - limit} more" if len(classes) > limit else "")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
