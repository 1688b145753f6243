"""What the model loses without the channels that look idle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..album import Album
from ..material import Material

TITLE = "Ablation"
QUESTION = "Does it matter when a channel that looks idle is switched off?"


@dataclass(frozen=True)
class Switched:
    """The model without one channel: its accuracy, the change of it, and the predictions that change."""

    layer: str
    channel: str
    accuracy: float
    change: float
    flipped: int


@dataclass(frozen=True)
class AblationView:
    """What was switched off, largest loss first."""

    rows: tuple[Switched, ...]
    hidden: int


def view(material: Material, album: Album) -> AblationView:
    """Gather what the section shows; it has no pictures."""
    del album
    names = [str(name) for name in material.notes("ablation").get("layers", ())]
    layer, channel = material.array("ablation/layer").astype(int), material.array("ablation/channel").astype(int)
    accuracy, change = material.array("ablation/accuracy"), material.array("ablation/change")
    flipped = material.array("ablation/flipped").astype(int)
    used = np.flatnonzero(layer >= 0)
    order = used[np.lexsort((used, -flipped[used], change[used]))]
    rows = [
        Switched(
            names[layer[row]],
            "all flagged together" if channel[row] < 0 else str(channel[row]),
            float(accuracy[row]),
            float(change[row]),
            int(flipped[row]),
        )
        for row in order[: material.limits.rows]
    ]
    return AblationView(tuple(rows), len(order) - len(rows))
