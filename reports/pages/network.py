"""A walk through the network: layer by layer in the order of the forward pass, with all that is known of each."""

from __future__ import annotations

from dataclasses import dataclass

from .. import attention, walk
from ..album import Album
from ..attention import LayerNews
from ..blocks import TITLES, Blocks
from ..material import Material
from ..views.provenance import Fact

TITLE = "Walk through the network"
QUESTION = "What does each layer see, which of its channels do no work, and what excites the others?"
#: What the frame of the page, and the words about one layer, take at most.
_FRAME_BYTES, _WORD_BYTES = 40_000, 3_500


@dataclass(frozen=True)
class Stop:
    """One layer of the walk.

    Parameters
    ----------
    anchor, name
        Its place in the page, and its name.
    facts
        What it is, in numbers.
    row
        The same for the table of all layers: kind, output, parameters, receptive field; empty where unknown.
    news
        Why it deserves attention; None where it does not.
    blocks
        What the stages show of it.
    """

    anchor: str
    name: str
    facts: tuple[Fact, ...]
    row: LayerRow
    news: LayerNews | None
    blocks: tuple[walk.Block, ...]


@dataclass(frozen=True)
class LayerRow:
    """A layer in the table of all layers."""

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
    stops
        Layers that a stage knows something of, in the order of the forward pass.
    passed
        How many others there are.
    attention
        Layers with news, the most urgent first.
    missing
        Stages that have nothing here, and why.
    """

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
    """Draw every layer; each is allowed an equal part of the bytes, and what its predecessors left over."""
    known = walk.Known(material)
    news = attention.news(material)
    urgent = {row.layer: row for row in news}
    names = _walked(material, known)
    share = max(0, size - _FRAME_BYTES - _WORD_BYTES * len(names)) // max(1, len(names) * len(TITLES))
    drawing, stops = Blocks(material, album), []
    for name in names:
        for noun in TITLES:
            album.allow(noun, share)
        blocks = walk.blocks(drawing, name)
        place = attention.anchor(material, name)
        stops.append(Stop(place, name, known.facts(name), _row(known, name), urgent.get(name), blocks))
    return Walk(tuple(stops), len(material.layer_order) - len(names), news, walk.missing(material))


def _walked(material: Material, known: walk.Known) -> tuple[str, ...]:
    """Layers with parameters of their own, and those that a stage stored something of."""
    leaves = [leaf for noun in walk.NOUNS for leaf in material.leaves(noun) if material.has(leaf)]
    stored = {
        path.removeprefix(f"{leaf}/").rpartition("/")[0] for leaf in leaves for path in material.store.arrays(leaf)
    }
    heavy = {name for name, row in known.table.items() if row.get("parameters")}
    return tuple(name for name in material.layer_order if name in stored | heavy | set(known.troubled))


def _row(known: walk.Known, name: str) -> LayerRow:
    layer = known.described[name]
    channels, kinds = known.troubled.get(name, (None, {}))
    return LayerRow(
        kind=str(layer["kind"]),
        output=walk.shape(layer["shape"]),
        parameters=known.table.get(name, {}).get("parameters"),
        field=known.field(name),
        channels=channels,
        troubled=None if channels is None else sum(kinds.values()),
    )
