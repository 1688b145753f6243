"""How the default model was trained."""

from __future__ import annotations

from dataclasses import dataclass

from .. import figures
from ..album import Album
from ..material import Material

TITLE = "Reference"
QUESTION = "How was the model that is audited by default trained?"


@dataclass(frozen=True)
class ReferenceView:
    """Loss and accuracy over the epochs."""

    loss: figures.Plot | None
    accuracy: figures.Plot | None


def view(material: Material, album: Album) -> ReferenceView:
    """Gather what the section shows."""
    del album
    return ReferenceView(_curve(material, "loss", "cross-entropy"), _curve(material, "accuracy", "share of images"))


def _curve(material: Material, name: str, unit: str) -> figures.Plot | None:
    path = f"reference/{name}"
    if path not in material.store.arrays("reference"):
        return None
    values = material.array(path).astype(float)
    if not len(values):
        return None
    alt = f"{name} over {len(values)} epochs, from {figures.number(values[0])} to {figures.number(values[-1])}"
    return figures.lines({name: values}, "epoch", f"{name} ({unit})", alt, ("right",))
