"""What makes each channel, what reads it, and which sum it flows into, from the operations a network is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from ..specs import LayerSpec
from .graph import Graph, Node, trace_graph
from .operations import CONVOLUTIONS, VIEWS, pointwise
from .slots import MIXING_NORMS, SUMS, Lane, follow, reads

_TRACED = ("conv", "relu", "norm")
# Between a convolution and the norm that belongs to it nothing but these may stand.
_PLAIN = VIEWS | {"clone", "alias", "detach", "_to_copy", "permute", "transpose"}


@dataclass(frozen=True)
class Slot:
    """Where the channels of one layer are found at another.

    Parameters
    ----------
    layer
        The other layer.
    first, width
        Channel `c` takes positions ``first + c * width`` to, exclusive, ``first + (c + 1) * width``: of the other
        layer's input channels (or features) where that one reads, of its channels where it adds. The width is not 1
        where a map was flattened; `first` is not 0 behind a concatenation.
    """

    layer: str
    first: int = 0
    width: int = 1


@dataclass(frozen=True)
class Lineage:
    """What stands in front of and behind the channels of one layer; channel `c` is one and the same all along.

    Parameters
    ----------
    conv
        The convolution that makes the channel; the layer itself where it is one; None behind a sum or concatenation.
    norm
        The norm between that convolution and its first nonlinearity, for a convolution, and in front of it, for a
        ReLU; None where there is none.
    readers
        The convolutions and linear layers that weigh the channel, also through sums and concatenations; of a reader
        with groups, only the group that the channel falls into. None where something else reads it too, such as the
        answer itself, so that nobody can say that weights of zero end it.
    added
        The first layer behind the first sum that the channel flows into, a ReLU before any other; None where there
        is no sum, or no layer between it and the next operation that mixes channels.
    """

    conv: str | None = None
    norm: str | None = None
    readers: tuple[Slot, ...] | None = None
    added: Slot | None = None

    def note(self) -> dict[str, Any]:
        """As it is noted in the store."""
        return asdict(self)

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> Lineage:
        """The inverse of `note`, also after JSON."""
        readers, added = note["readers"], note["added"]
        return cls(
            note["conv"],
            note["norm"],
            None if readers is None else tuple(Slot(**slot) for slot in readers),
            None if added is None else Slot(**added),
        )


def lineage(model: nn.Module, image: Tensor, layers: Sequence[LayerSpec]) -> dict[str, Lineage]:
    """Follow the channels of every convolution, norm and ReLU through the network.

    Parameters
    ----------
    model
        In evaluation mode. Nothing is written on it.
    image
        ``(1, channel, *space)`` on the model's device; any values.
    layers
        Everything that can be looked at, as `convaudit.stages.network.layers.trace` lists it.

    Raises
    ------
    UntraceableError
        When the network cannot be followed, with the reason.
    """
    graph = trace_graph(model, image, [layer.name for layer in layers if layer.kind != "input"])
    family = _Family(graph, {layer.name: layer for layer in layers})
    return {layer.name: family.of(layer.name) for layer in layers if layer.kind in _TRACED}


class _Family:
    """The graph, which layers lie at its nodes, and which nodes take from which."""

    def __init__(self, graph: Graph, layers: Mapping[str, LayerSpec]) -> None:
        self.graph, self.layers = graph, layers
        self.at: dict[int, list[str]] = {}
        for name, index in graph.layers.items():
            self.at.setdefault(index, []).append(name)
        counted = _before(graph, graph.output)
        self.takers: dict[int, list[int]] = {}
        for index, node in enumerate(graph.nodes):
            for ref in node.refs() if index in counted else ():
                self.takers.setdefault(ref, []).append(index)
        self.norms: dict[str, str] = {}
        self.makers: dict[str, tuple[str | None, str | None]] = {}
        self._make()

    def of(self, name: str) -> Lineage:
        """Everything that is known of one layer's channels."""
        conv, norm = self.makers.get(name, (None, None))
        if self.layers[name].kind == "conv":
            conv, norm = name, self.norms.get(name)
        readers, added = self._ahead(self.graph.layers[name])
        return Lineage(conv, norm, readers, added)

    def named(self, index: int, *kinds: str) -> str | None:
        """The first layer of one of these kinds at a node."""
        return next((name for name in self.at.get(index, ()) if self.layers[name].kind in kinds), None)

    def _make(self) -> None:
        """Walk on from every convolution, then from every norm without one, as long as nothing else joins."""
        for kind in ("conv", "norm"):
            for name in [name for name in self.graph.layers if self.layers[name].kind == kind]:
                if kind == "conv" or name not in self.makers:
                    self._make_from(name, kind == "conv")

    def _make_from(self, name: str, is_conv: bool) -> None:
        conv, norm = (name, None) if is_conv else (None, name)
        stack = [(self.graph.layers[name], Lane(), norm, is_conv)]
        while stack:
            source, lane, norm, plain = stack.pop()
            for index, ahead in self._alone(source, lane):
                found = self.named(index, "norm") if ahead == Lane() else None
                if found is not None and is_conv:
                    self.makers[found] = (conv, found)
                    if plain:
                        self.norms.setdefault(name, found)
                relu = self.named(index, "relu") if ahead == Lane() else None
                if relu is not None:
                    self.makers[relu] = (conv, found or norm)
                still = plain and (self.graph.nodes[index].name in _PLAIN)
                stack.append((index, ahead, found or norm, still))

    def _alone(self, source: int, lane: Lane) -> Iterator[tuple[int, Lane]]:
        """The nodes that take these channels and no other value."""
        for index in self.takers.get(source, ()):
            if len(self.graph.nodes[index].refs()) == 1 and self.graph.nodes[index].name != "cat":
                for ahead in follow(self.graph, source, lane, index):
                    yield index, ahead

    def _ahead(self, start: int) -> tuple[tuple[Slot, ...] | None, Slot | None]:
        """Readers and first sum of the channels that begin at a node."""
        known, readers, sums = True, {}, []
        stack, seen = [(start, Lane())], {(start, Lane())}
        while stack:
            source, lane = stack.pop()
            known = known and source != self.graph.output
            for index in self.takers.get(source, ()):
                node = self.graph.nodes[index]
                if reads(source, lane, node, len(self.graph.nodes[source].shape)):
                    reader = self._reader(index)
                    known = known and reader is not None
                    readers |= {} if reader is None else {Slot(reader, lane.first, lane.width): index}
                    continue
                ahead = follow(self.graph, source, lane, index)
                known = known and bool(ahead) and node.name not in MIXING_NORMS
                sums += [(index, lane) for lane in ahead if _is_sum(node)]
                stack += [(index, lane) for lane in ahead if (index, lane) not in seen]
                seen |= {(index, lane) for lane in ahead}
        ordered = tuple(sorted(readers, key=lambda slot: (readers[slot], slot.first)))
        return ordered if known else None, self._behind(*min(sums, key=lambda at: at[0])) if sums else None

    def _reader(self, index: int) -> str | None:
        """The layer that a convolution or product belongs to; a linear layer may lay its output out anew."""
        found = self.named(index, "conv", "linear")
        if found is not None or self.graph.nodes[index].name in CONVOLUTIONS:
            return found
        views = [taker for taker in self.takers.get(index, ()) if self.graph.nodes[taker].name in VIEWS]
        return next((name for name in (self.named(view, "linear") for view in views) if name), None)

    def _behind(self, index: int, lane: Lane) -> Slot | None:
        """The first ReLU behind a sum, else the first layer, before anything else joins."""
        found: list[tuple[bool, int, Slot]] = []
        stack = [(index, lane)]
        while stack:
            source, lane = stack.pop()
            names = self.at.get(source, ()) if lane.axis == 1 else ()
            found += [(self.layers[name].kind != "relu", source, Slot(name, lane.first, lane.width)) for name in names]
            stack += self._alone(source, lane)
        return min(found, key=lambda entry: entry[:2])[2] if found else None


def _is_sum(node: Node) -> bool:
    return node.name in SUMS and pointwise(node) and len(node.refs()) > 1


def _before(graph: Graph, output: int) -> set[int]:
    """The nodes that the output hangs on, itself among them."""
    found, stack = {output}, [output]
    while stack:
        fresh = [ref for ref in graph.nodes[stack.pop()].refs() if ref not in found]
        found.update(fresh)
        stack += fresh
    return found
