"""Writes down what a network computes for one image: every operation, with the values that it gave."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ..errors import StageError, in_words
from .capture import Seen, locate, named_modules, watch

#: An ATen operation, such as ``torch.ops.aten.relu.default``, with its schema; PyTorch has no public type for it.
Op = Any

#: What cannot be written down, because it does not follow from the input alone.
_UNFOLLOWED = {
    torch.Tag.data_dependent_output: "takes a decision that depends on the values",
    torch.Tag.dynamic_output_shape: "gives a shape that depends on the values",
    torch.Tag.nondeterministic_seeded: "draws random numbers",
}


#: What takes no more from a value than its shape and type.
_FILLED = frozenset({"zeros_like", "ones_like", "full_like", "empty_like"}) | frozenset(
    {"new_zeros", "new_ones", "new_full", "new_empty"}
)


class UntraceableError(Exception):
    """A network whose computation cannot be written down; the text says why."""


@dataclass(frozen=True)
class Ref:
    """Stands, among the arguments of a node, for what another node gives."""

    index: int


@dataclass(frozen=True)
class Node:
    """One value and the operation that gives it.

    Parameters
    ----------
    name
        Of the operation, without overload: ``"convolution"``; ``"input"`` for the input itself.
    op
        Never one that writes in place; None for the input.
    args, kwargs
        Of the operation, with `Ref` where it takes what other nodes give.
    pick
        Which of several results; None where there is one.
    shape
        Of the value, for one image; the first axis has length 1 where it is still the image axis.
    """

    name: str
    op: Op
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    pick: int | None
    shape: tuple[int, ...]

    def refs(self) -> tuple[int, ...]:
        """The nodes that it takes values from, each once."""
        return refs_in((self.args, self.kwargs))


@dataclass
class Graph:
    """What a network computes, in the order in which it does.

    Parameters
    ----------
    nodes
        The first is the input.
    values
        What each node gave.
    output
        The node that the network returns.
    layers
        Node of each layer that was asked for.
    constant
        Layers that were asked for and do not depend on the input.
    """

    nodes: list[Node]
    values: list[Tensor]
    output: int
    layers: dict[str, int] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()


def refs_in(arguments: Any) -> tuple[int, ...]:
    """The nodes that some arguments refer to, each once."""
    found: dict[int, None] = {}

    def note(value: Any) -> Any:
        if isinstance(value, Ref):
            found[value.index] = None
        return value

    tree_map(note, arguments, is_leaf=lambda value: isinstance(value, Ref))
    return tuple(found)


def trace_graph(model: nn.Module, image: Tensor, layers: Collection[str] = (), *, fixed_length: bool = False) -> Graph:
    """Run a network on one image and write down what it computes.

    Works for whatever the network is made of, since it looks at the operations that are carried out and not at the
    source; what it writes down holds for every input of that shape, since it refuses decisions that depend on values.

    Parameters
    ----------
    model
        In evaluation mode. Nothing is written on it.
    image
        ``(1, channel, *space)`` on the model's device.
    layers
        Layers whose node is to be noted.
    fixed_length
        Whether the graph is only looked at, and never computed again for another number of images: then layers may be
        constant, and so is what is filled with one number in the shape of another value.

    Raises
    ------
    UntraceableError
        With the reason: random numbers, values that leave PyTorch, writing through views or into the model, an output
        that is not one tensor.
    StageError
        When the model has no such layer, or does not compute it.
    """
    modules = named_modules(model)
    places = {locate(name, modules): name for name in layers}
    noted: dict[str, int] = {}
    with torch.inference_mode(False):
        recorder = _Recorder(image.clone(), fixed_length)

    constant: set[str] = set()

    def visit(at: Seen) -> None:
        name = places[at.place]
        if fixed_length and id(at.value) in recorder.own:
            constant.add(name)
        else:
            noted[name] = recorder.node_of(at.value, f"layer {name!r}")

    # In inference mode operations stay together that are known by their parts.
    with torch.inference_mode(False), torch.no_grad(), watch(model, visit, places), recorder:
        output = model(recorder.values[0])
    missing = sorted(set(layers) - set(noted) - constant)
    if missing:
        raise StageError(f"layer {missing[0]!r} is not computed when the network runs; choose another layer")
    if not isinstance(output, Tensor):
        raise UntraceableError(f"the network returns {type(output).__name__}, not a tensor")
    return Graph(recorder.nodes, recorder.values, recorder.node_of(output, "the output"), noted, frozenset(constant))


class _Recorder(TorchDispatchMode):
    def __init__(self, image: Tensor, fixed_length: bool) -> None:
        super().__init__()
        self.constant = _FILLED if fixed_length else frozenset()
        self.nodes = [Node("input", None, (), {}, None, tuple(image.shape))]
        self.values = [image]
        # Every tensor seen is kept, so that no two of them ever have the same id.
        self.known: dict[int, tuple[Tensor, int]] = {id(image): (image, 0)}
        self.stale: set[int] = set()
        self.own: dict[int, Tensor] = {}

    def node_of(self, tensor: Tensor, what: str) -> int:
        if id(tensor) not in self.known or id(tensor) in self.stale:
            raise UntraceableError(f"{what} is not computed from the input by operations that can be followed")
        return self.known[id(tensor)][1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        follows = name not in self.constant and bool(refs_in(self._referred((args, kwargs))))
        for tag, reason in _UNFOLLOWED.items():
            if tag in func.tags and (follows or tag is torch.Tag.nondeterministic_seeded):
                raise UntraceableError(f"the operation {name} {reason}")
        if not follows:
            return self._constant(func(*args, **kwargs))
        if func._schema.is_mutable:
            return self._in_place(func, name, args, kwargs)
        call = self._referred(args), self._referred(kwargs)
        result = func(*args, **kwargs)
        self._note(result, name, func, *call)
        return result

    def _constant(self, result: Any) -> Any:
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.own[id(value)] = value
        return result

    def _referred(self, arguments: Any) -> Any:
        def refer(value: Any) -> Any:
            if not isinstance(value, Tensor) or id(value) not in self.known:
                return value
            if id(value) in self.stale:
                raise UntraceableError("a value is written in place through another view of it")
            return Ref(self.known[id(value)][1])

        return tree_map(refer, arguments)

    def _note(self, result: Any, name: str, op: Op, args: Any, kwargs: Any) -> None:
        several = isinstance(result, (tuple, list))
        for place, value in enumerate(result if several else (result,)):
            if isinstance(value, Tensor):
                # The same tensor may come back, as from a contiguous(); it is one more node all the same.
                self.known[id(value)] = (value, len(self.nodes))
                self.nodes.append(Node(name, op, args, kwargs, place if several else None, tuple(value.shape)))
                self.values.append(value)
            elif value is not None:
                raise UntraceableError(f"the operation {name} takes a value out of PyTorch")

    def _in_place(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        target = args[0] if args else None
        pure = _pure(func)
        if pure is None or not isinstance(target, Tensor):
            raise UntraceableError(f"the operation {name} writes in place in a way that cannot be followed")
        if id(target) not in self.known and id(target) not in self.own:
            raise UntraceableError(f"the operation {name} writes into the model's own state")
        call = self._referred(args), self._referred(kwargs)
        self._save(target)
        # The operation that does not write says what is computed; the model gets what it writes.
        result = func(*args, **kwargs)
        self._note(target, name.removesuffix("_"), pure, *call)
        return result

    def _save(self, target: Tensor) -> None:
        """Copy every noted value in the memory that is about to be overwritten."""
        memory = target.untyped_storage()._cdata
        for index, value in enumerate(self.values):
            if value.untyped_storage()._cdata == memory:
                self.values[index] = value.clone()
        for key, (tensor, _) in self.known.items():
            if tensor is not target and tensor.untyped_storage()._cdata == memory:
                self.stale.add(key)


def _pure(func: Any) -> Op:
    """The operation that computes what another writes in place; None where there is none."""
    name = func.overloadpacket.__name__
    written = [argument.name for argument in func._schema.arguments if argument.is_write]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if not name.endswith("_") or len(written) != 1 or packet is None:
        return None
    return getattr(packet, func._overloadname, None)


# PyTorch has no type of its own for it.
_CPU_MEMORY = "can't allocate memory"


def traced_or_reason(
    model: nn.Module, image: Tensor, layers: Collection[str] = (), *, fixed_length: bool = False
) -> Graph | str:
    """`trace_graph`, or in words why the network cannot be traced.

    Raises
    ------
    StageError
        When the model has no such layer, or does not compute it.
    MemoryError
        When memory ran out, which another time it may not.
    """
    try:
        return trace_graph(model, image, layers, fixed_length=fixed_length)
    except UntraceableError as error:
        return str(error)
    # Memory that ran out says nothing of the network: whoever cut the batch tries again.
    except (StageError, MemoryError, torch.OutOfMemoryError):
        raise
    # Whatever else a network makes of being watched is a reason, and is told.
    except Exception as error:
        if _CPU_MEMORY in str(error):
            raise MemoryError(str(error)) from error
        return in_words(error)
