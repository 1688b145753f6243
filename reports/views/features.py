"""Which layers are kept as feature vectors."""

from __future__ import annotations

from dataclasses import dataclass

from ..album import Album
from ..material import Material

TITLE = "Features"
QUESTION = "Which vectors stand for the images in everything that compares them?"


@dataclass(frozen=True)
class FeatureLayer:
    """One layer's feature vectors."""

    layer: str
    path: str
    images: int
    features: int


@dataclass(frozen=True)
class FeaturesView:
    """The kept layers, in the order of the forward pass."""

    layers: tuple[FeatureLayer, ...]


def view(material: Material, album: Album) -> FeaturesView:
    """Gather what the section shows; it has no pictures."""
    del album
    rows = []
    for path in material.store.arrays("features"):
        shape = material.store[path].shape
        if len(shape) == 2:
            rows.append(FeatureLayer(path.removeprefix("features/"), path, shape[0], shape[1]))
    rows.sort(key=lambda row: (material.layer_order.get(row.layer, len(material.layer_order)), row.layer))
    return FeaturesView(tuple(rows))
