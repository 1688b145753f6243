"""Which channels do no work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..album import Album
from ..material import Material

TITLE = "Filters"
QUESTION = "Which channels never fire, hardly ever, or always alike?"


@dataclass(frozen=True)
class LayerTroubles:
    """How many channels of one layer are in which trouble."""

    layer: str
    channels: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Filter:
    """A channel in trouble, with the share of images it fires on, that share's upper bound and its score."""

    layer: str
    channel: int
    trouble: str
    rate: float
    bound: float
    score: float


@dataclass(frozen=True)
class FiltersView:
    """Troubles by layer, and the channels that have one, worst layer order first."""

    troubles: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...]
    layers: tuple[LayerTroubles, ...]
    filters: tuple[Filter, ...]
    hidden: int
    n: int


def view(material: Material, album: Album) -> FiltersView:
    """Gather what the section shows; it has no pictures."""
    del album
    notes = material.notes("filters")
    names, troubles = [str(name) for name in notes.get("layers", ())], [str(word) for word in notes.get("troubles", ())]
    columns = {
        name: material.array(f"filters/{name}") for name in ("layer", "channel", "trouble", "rate", "bound", "score")
    }
    layer, trouble = columns["layer"].astype(int), columns["trouble"].astype(int)
    ill = np.flatnonzero(trouble > 0)
    ill = ill[np.lexsort((columns["channel"][ill], layer[ill], trouble[ill]))]
    shown = ill[: material.limits.rows]
    return FiltersView(
        troubles=tuple(troubles[1:]),
        definitions=tuple((word, str(text)) for word, text in notes.get("definitions", {}).items()),
        layers=tuple(
            _layer(names[place], trouble[layer == place], len(troubles)) for place in np.unique(layer[layer >= 0])
        ),
        filters=tuple(_filter(names, troubles, columns, int(row)) for row in shown),
        hidden=len(ill) - len(shown),
        n=len(layer),
    )


def _layer(name: str, trouble: np.ndarray, kinds: int) -> LayerTroubles:
    counts = np.bincount(trouble[trouble >= 0], minlength=kinds)
    return LayerTroubles(name, len(trouble), tuple(int(count) for count in counts[1:]))


def _filter(names: list[str], troubles: list[str], columns: dict[str, np.ndarray], row: int) -> Filter:
    return Filter(
        layer=names[int(columns["layer"][row])],
        channel=int(columns["channel"][row]),
        trouble=troubles[int(columns["trouble"][row])],
        rate=float(columns["rate"][row]),
        bound=float(columns["bound"][row]),
        score=float(columns["score"][row]),
    )
