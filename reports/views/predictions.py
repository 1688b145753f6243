"""What the model says, how sure it is and where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import figures
from ..album import Album, Gallery
from ..material import Material

TITLE = "Predictions"
QUESTION = "Does the model say what the label says, and how sure is it?"
_BINS = 20


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read, and why."""

    image: str
    status: str
    reason: str


@dataclass(frozen=True)
class PredictionsView:
    """Histogram of the confidence, the misclassified images and those that could not be read."""

    histogram: figures.Plot | None
    errors: Gallery
    n_error: int
    n_judged: int
    bad: tuple[BadImage, ...]
    n_bad: int
    n_unseen: int


def view(material: Material, album: Album) -> PredictionsView:
    """Gather what the section shows; misclassified images come most confident first."""
    bad = _bad_images(material)
    status = material.status
    return PredictionsView(
        histogram=_histogram(material),
        errors=album.gallery("predictions", material.wrong),
        n_error=len(material.wrong),
        n_judged=len(material.judged),
        bad=bad[: material.limits.rows],
        n_bad=len(bad),
        n_unseen=0 if status is None else int(np.sum(status < 0)),
    )


def _bad_images(material: Material) -> tuple[BadImage, ...]:
    if material.status is None:
        return ()
    reasons = {int(row["image"]): str(row.get("reason", "")) for row in material.notes("predictions").get("bad", ())}
    return tuple(
        BadImage(material.image_ids[position], material.status_word(position), reasons.get(position, ""))
        for position in map(int, np.flatnonzero(material.status > 0))
    )


def _histogram(material: Material) -> figures.Plot | None:
    confidence, predicted, judged = material.confidence, material.predicted, material.judged
    if confidence is None or predicted is None or not judged.size:
        return None
    right = predicted[judged] == material.labels[judged]
    edges = np.linspace(0, 1, _BINS + 1)
    series = {
        "wrong": np.histogram(confidence[judged][~right], edges)[0],
        "right": np.histogram(confidence[judged][right], edges)[0],
    }
    sure = int(np.sum(confidence[judged][~right] >= 0.9))
    return figures.stacked_bars(
        series,
        edges,
        "confidence: softmax of the predicted class",
        "images",
        f"Histogram of the confidence of {len(judged)} images: {int(right.sum())} are right, {int((~right).sum())} are "
        f"wrong, {sure} of the wrong ones with a confidence of 0.9 or more.",
        ("wrong", "right"),
    )
