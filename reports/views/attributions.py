"""Where the evidence for a class lies in the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..album import Album, Gallery
from ..material import Material

TITLE = "Attributions"
QUESTION = "Which places of an image speak for the class?"
_EACH, _HEATMAPS = 4, 4


@dataclass(frozen=True)
class Choice:
    """Images chosen for one reason."""

    title: str
    gallery: Gallery


@dataclass(frozen=True)
class AttributionsView:
    """Heatmaps over the same images for every stored method."""

    methods: tuple[str, ...]
    choices: tuple[Choice, ...]
    blank: tuple[str, ...]


def view(material: Material, album: Album) -> AttributionsView:
    """Gather what the section shows: confident errors, confident hits, and images on the fence."""
    methods = tuple(leaf for leaf in material.leaves("attributions") if material.has(leaf))
    choices = tuple(
        Choice(title, gallery)
        for title, positions in _choices(material)
        if (gallery := album.gallery("attributions", positions[:_EACH], heat=_HEATMAPS)).items
    )
    return AttributionsView(methods, choices, _unplaced(material, methods))


def _choices(material: Material) -> list[tuple[str, np.ndarray]]:
    if material.confidence is None or material.predicted is None:
        return []
    judged = material.judged
    right = judged[material.predicted[judged] == material.labels[judged]]
    margin = material.array("predictions/margin")
    return [
        ("Wrong and confident", material.wrong),
        ("Right and confident", right[np.lexsort((right, -material.confidence[right]))]),
        ("Undecided between two classes", judged[np.lexsort((judged, margin[judged]))]),
    ]


def _unplaced(material: Material, methods: tuple[str, ...]) -> tuple[str, ...]:
    """Methods whose heatmaps this page has no picture of."""
    return tuple(leaf for leaf in methods if not any(path.endswith("heatmap") for path in material.store.arrays(leaf)))
