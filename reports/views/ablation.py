"""What the model loses without the channels that look idle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..album import Album
from ..material import Material

TITLE = "Ablation"
QUESTION = "Does it matter when a channel that looks idle is switched off?"


@dataclass(frozen=True)
class Switched:
    """The model without one channel, and its trouble: accuracy, the change of it, and the predictions that change."""

    layer: str
    channel: str
    trouble: str
    accuracy: float
    change: float
    flipped: int


@dataclass(frozen=True)
class AblationView:
    """What was switched off, largest loss first; `left_out` channels in trouble were not, for the cap."""

    rows: tuple[Switched, ...]
    hidden: int
    left_out: int


def view(material: Material, album: Album) -> AblationView:
    """Gather what the section shows; it has no pictures."""
    del album
    notes = material.notes("ablation")
    names = [str(name) for name in notes.get("layers", ())]
    told = {case["row"]: case for case in notes.get("cases", ())}
    layer, channel = material.array("ablation/layer").astype(int), material.array("ablation/channel").astype(int)
    accuracy, change = material.array("ablation/accuracy"), material.array("ablation/change")
    flipped = material.array("ablation/flipped").astype(int)
    used = np.flatnonzero(layer >= 0)
    order = used[np.lexsort((used, -flipped[used], change[used]))]
    rows = [
        Switched(
            names[layer[row]],
            "all idle together" if channel[row] < 0 else str(channel[row]),
            _trouble(told.get(int(row), {})),
            float(accuracy[row]),
            float(change[row]),
            int(flipped[row]),
        )
        for row in order[: material.limits.rows]
    ]
    return AblationView(tuple(rows), len(order) - len(rows), int(notes.get("left_out", {}).get("channels", 0)))


def _trouble(case: Mapping[str, Any]) -> str:
    words = ", ".join(str(kind).replace("_", " ") for kind in case.get("troubles", ()))
    return f"{words} (no run)" if case.get("how") == "evidence" else words
