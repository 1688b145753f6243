"""What the network was shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..album import Album, Gallery, picture_kind
from ..material import Material

TITLE = "Thumbnails"
QUESTION = "What does the network see, after all preprocessing?"


@dataclass(frozen=True)
class ThumbnailsView:
    """Images of which the model is most and least sure, and some of every class."""

    kind: str
    most: Gallery
    least: Gallery
    classes: Gallery


def view(material: Material, album: Album) -> ThumbnailsView:
    """Gather what the section shows."""
    confidence = material.confidence
    seen = np.arange(len(material.image_ids)) if material.status is None else np.flatnonzero(material.status == 0)
    if confidence is None:
        most = least = np.empty(0, int)
    else:
        known = seen[np.isfinite(confidence[seen])]
        most = known[np.lexsort((known, -confidence[known]))]
        least = known[np.lexsort((known, confidence[known]))]
    return ThumbnailsView(
        kind=picture_kind(material),
        most=album.gallery("thumbnails", most[: material.limits.pictures], heat=0),
        least=album.gallery("thumbnails", least[: material.limits.pictures], heat=0),
        classes=album.gallery("thumbnails", _first_of_each(material, seen), heat=0),
    )


def _first_of_each(material: Material, seen: np.ndarray) -> np.ndarray:
    labels = material.labels[seen]
    known, first = np.unique(labels, return_index=True)
    return seen[first[known >= 0]]
