"""A walk through the network: layer by layer in the order of the forward pass, with all that is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .. import attention, walk
from ..album import Album
from ..attention import LayerNews
from ..blocks import Blocks
from ..material import Material
from ..views.provenance import Fact

TITLE = "Walk through the network"
QUESTION = "What does each layer see, which of its channels do no work, and what excites the others?"
#: What the frame of the page, and the words about one layer, take at most.
_FRAME_BYTES, _WORD_BYTES = 40_000, 3_500
#: How the bytes of the pictures are shared out among the stages that have some.
_PARTS = {"weights": 2, "feature_maps": 3, "patches": 5}


@dataclass(frozen=True)
class Stop:
    """One layer of the walk.

    Parameters
    ----------
    anchor, name
        Its place in the page, and its name.
    facts
        What it is, in numbers.
    news
        Why it deserves attention; None where it does not.
    blocks
        What the stages show of it.
    """

    anchor: str
    name: str
    facts: tuple[Fact, ...]
    news: LayerNews | None
    blocks: tuple[walk.Block, ...]


@dataclass(frozen=True)
class LayerRow:
    """A layer in the table of all layers; without an anchor where there is no more to say of it."""

    name: str
    anchor: str
    kind: str
    output: str
    parameters: int | None
    field: str
    channels: int | None
    troubled: int | None


@dataclass(frozen=True)
class Walk:
    """The layers, those that want a look first, and what is missing.

    Parameters
    ----------
    rows
        Layers that a stage knows something of, in the order of the forward pass.
    stops
        Those among them with something to see.
    passed
        How many others there are.
    attention
        Layers with news, the most urgent first.
    missing
        Stages that have nothing here, and why.
    """

    rows: tuple[LayerRow, ...]
    stops: tuple[Stop, ...]
    passed: int
    attention: tuple[LayerNews, ...]
    missing: tuple[tuple[str, str], ...]


def applies(material: Material) -> bool:
    """Whether a stage knows something of single layers."""
    return bool(material.layer_order) and any(
        material.has(leaf) for noun in walk.NOUNS for leaf in material.leaves(noun)
    )


def page(material: Material, album: Album, size: int) -> Walk:
    """Draw every layer; each is allowed an equal part of a stage's bytes, and what its predecessors left over."""
    drawing = Blocks(material, album)
    known = walk.Known(drawing)
    news = attention.news(material)
    urgent = {row.layer: row for row in news}
    stored = _stored(material)
    names = _walked(material, known, stored)
    shares = _shares(stored, max(0, size - _FRAME_BYTES - _WORD_BYTES * len(names)))
    # Small, and nowhere as telling as in the first layer: whoever comes first takes what it needs.
    album.allow("weights", shares.pop("weights", 0) * len(stored["weights"]))
    stops, rows = [], []
    for name in names:
        for noun, share in shares.items():
            album.allow(noun, share if name in stored[noun] else 0)
        blocks = walk.blocks(drawing, name)
        place = attention.anchor(material, name) if blocks or name in urgent else ""
        rows.append(_row(known, name, place))
        if place:
            stops.append(Stop(place, name, known.facts(name), urgent.get(name), blocks))
    return Walk(tuple(rows), tuple(stops), len(material.layer_order) - len(names), news, walk.missing(material))


def _shares(stored: Mapping[str, set[str]], size: int) -> dict[str, int]:
    """Bytes of pictures of one layer, by stage."""
    parts = {noun: part for noun, part in _PARTS.items() if stored[noun]}
    return {noun: int(size * part / sum(parts.values()) / len(stored[noun])) for noun, part in parts.items()}


def _stored(material: Material) -> dict[str, set[str]]:
    """Layers that each stage stored arrays of."""
    found: dict[str, set[str]] = {noun: set() for noun in walk.NOUNS}
    for noun in walk.NOUNS:
        for leaf in material.leaves(noun):
            paths = material.store.arrays(leaf) if material.has(leaf) else ()
            found[noun] |= {path.removeprefix(f"{leaf}/").rpartition("/")[0] for path in paths}
    return {noun: names & material.layer_order.keys() for noun, names in found.items()}


def _walked(material: Material, known: walk.Known, stored: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Layers with parameters of their own, and those that a stage stored something of."""
    heavy = {name for name, row in known.drawing.weighed.items() if row.get("parameters")}
    kept = set().union(heavy, known.troubled, *stored.values())
    return tuple(name for name in material.layer_order if name in kept)


def _row(known: walk.Known, name: str, place: str) -> LayerRow:
    layer = known.described[name]
    channels, kinds = known.troubled.get(name, (None, {}))
    return LayerRow(
        name=name,
        anchor=place,
        kind=str(layer["kind"]),
        output=walk.shape(layer["shape"]),
        parameters=known.drawing.weighed.get(name, {}).get("parameters"),
        field=known.field(name),
        channels=channels,
        troubled=None if channels is None else sum(kinds.values()),
    )
