"""How each class fares, and how often the label is among the first few answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..numerics.statistics import shares, wilson
from ..specs import ArraySpec, Measurement
from .matrix import precision, recall
from .probabilities import Scores

_BOUNDED = "; 95 % interval by Wilson"
RECALL = ArraySpec("recall", ("class",), "float64", "1", "Share of a label's images that were answered right.")
PRECISION = ArraySpec("precision", ("class",), "float64", "1", "Share of a class's answers that were right.")
F1 = ArraySpec("f1", ("class",), "float64", "1", "Harmonic mean of recall and precision; NaN for no label and answer.")
RECALL_BOUNDS = ArraySpec("recall_bounds", ("class", "bound"), "float64", "1", f"Of recall, low and high{_BOUNDED}.")
PRECISION_BOUNDS = ArraySpec("precision_bounds", ("class", "bound"), "float64", "1", f"Of precision{_BOUNDED}.")
F1_BOUNDS = ArraySpec("f1_bounds", ("class", "bound"), "float64", "1", f"Of F1{_BOUNDED}, of its Jaccard index.")
DOCUMENTS = (RECALL, PRECISION, F1, RECALL_BOUNDS, PRECISION_BOUNDS, F1_BOUNDS)

_TOP = (1, 2, 3, 5, 10, 20, 50)


@dataclass(frozen=True)
class PerClass:
    """Shares per class and their 95 % intervals; NaN where nothing was counted."""

    recall: Float[np.ndarray, " class"]
    precision: Float[np.ndarray, " class"]
    f1: Float[np.ndarray, " class"]
    recall_bounds: Float[np.ndarray, "class bound"]
    precision_bounds: Float[np.ndarray, "class bound"]
    f1_bounds: Float[np.ndarray, "class bound"]


def per_class(matrix: Int[np.ndarray, "label prediction"]) -> PerClass:
    """Recall, precision and F1 of each class.

    Parameters
    ----------
    matrix
        Images by (label, prediction).

    Returns
    -------
    PerClass
        F1 is ``2 right / (images + answers)``: 0 for a class that is never answered, NaN where there is neither. It
        grows with the Jaccard index J = right / (images + answers - right) as ``2 J / (1 + J)``; its interval is that
        of J as a share of the images that are of the class or answered with it, mapped the same way.
    """
    right, support, answered = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    both = support + answered
    jaccard = _bounds(right, both - right)
    return PerClass(
        recall=recall(matrix),
        precision=precision(matrix),
        f1=shares(2 * right, both),
        recall_bounds=_bounds(right, support),
        precision_bounds=_bounds(right, answered),
        f1_bounds=2 * jaccard / (1 + jaccard),
    )


def _bounds(part: Int[np.ndarray, " n"], whole: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n bound"]:
    return np.array([wilson(int(some), int(n)) for some, n in zip(part, whole, strict=True)]).reshape(-1, 2)


def class_rows(names: Sequence[str], matrix: Int[np.ndarray, "label prediction"]) -> list[dict[str, Any]]:
    """One row per class for the report; a share that nothing was counted for is null."""
    found, support, answered = per_class(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        {
            "class": i,
            "name": name,
            "recall": known(found.recall[i]),
            "recall_bounds": [known(bound) for bound in found.recall_bounds[i]],
            "precision": known(found.precision[i]),
            "precision_bounds": [known(bound) for bound in found.precision_bounds[i]],
            "f1": known(found.f1[i]),
            "f1_bounds": [known(bound) for bound in found.f1_bounds[i]],
            "support": int(support[i]),
            "predicted": int(answered[i]),
        }
        for i, name in enumerate(names)
    ]


def known(value: float) -> float | None:
    """A number for JSON; NaN becomes null."""
    return None if math.isnan(value) else float(value)


def top_rows(scores: Scores) -> list[dict[str, Any]]:
    """Share of images whose label is among the first k answers, for several k below the number of classes."""
    n, n_class = int(scores.rank_count.sum()), len(scores.rank_count)
    rows = [(k, scores.within(k)) for k in _TOP if k < n_class]
    return [{"k": k, "right": hits, "share": hits / n, "bounds": list(wilson(hits, n))} for k, hits in rows]


def class_measurements(matrix: Int[np.ndarray, "label prediction"], scores: Scores) -> tuple[Measurement, ...]:
    """Mean F1, classes that are never answered, and top-5 accuracy where there are more than five classes."""
    n, support, answered = int(matrix.sum()), matrix.sum(axis=1), matrix.sum(axis=0)
    never = int(((support > 0) & (answered == 0)).sum())
    top = next((row for row in top_rows(scores) if row["k"] == 5), None)
    mean = Measurement(
        "confusion/mean_f1",
        float(per_class(matrix).f1[support > 0].mean()),
        "1",
        "higher",
        n,
        "confusion/f1",
        "Mean over the labels that have images of F1 = 2 right / (images + answers); 0 for one that is never answered.",
    )
    unused = Measurement(
        "confusion/never_predicted",
        float(never),
        "classes",
        "lower",
        int((support > 0).sum()),
        "confusion/matrix",
        "Labels that have images and that not one image was answered with.",
    )
    if top is None:
        return (mean, unused)
    told = "Share of images with fewer than five classes before their label; equal logits: the earlier class first."
    five = ("confusion/top5_accuracy", top["share"], "1", "higher", n, "confusion/rank_count", told, *top["bounds"])
    return (mean, unused, Measurement(*five))
