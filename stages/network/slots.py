"""Where the channels of one value are found in the next: followed through one operation at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .graph import Graph, Node, Ref
from .operations import (
    ADAPTIVE_POOLS,
    AVERAGE_POOLS,
    CONVOLUTIONS,
    MAX_POOLS,
    NORMS,
    REDUCTIONS,
    VIEWS,
    arguments,
    pointwise,
    pooled_axes,
    reduced_dims,
)

POOLS = MAX_POOLS | AVERAGE_POOLS | ADAPTIVE_POOLS
#: Norms whose statistics run over several channels, so that each channel reaches all others through them.
MIXING_NORMS = frozenset({"native_layer_norm", "native_group_norm", "_fused_rms_norm"})
SUMS = frozenset({"add", "sub"})
PRODUCTS = frozenset({"addmm", "mm"})


@dataclass(frozen=True)
class Lane:
    """Where channel `c` is found: ``first + c * width`` to, exclusive, ``first + (c + 1) * width`` along an axis.

    Parameters
    ----------
    axis
        Axis of the value, the image axis counted.
    first
        Where channel 0 begins.
    width
        Positions of one channel.
    """

    axis: int = 1
    first: int = 0
    width: int = 1


def follow(graph: Graph, source: int, lane: Lane, index: int) -> tuple[Lane, ...]:
    """Where the channels that lie in `lane` of one node are found in a node that takes it.

    Returns
    -------
    tuple[Lane, ...]
        Empty where channels are mixed, taken apart, or handled by an operation that is not known.
    """
    node, before = graph.nodes[index], graph.nodes[source].shape
    if node.name == "cat":
        return _through_cat(graph, source, lane, node)
    found = _followed(node, before, lane)
    return () if found is None or node.pick not in (None, 0) else (found,)


def _followed(node: Node, before: tuple[int, ...], lane: Lane) -> Lane | None:
    if node.name in VIEWS:
        return _through_view(before, node.shape, lane)
    if node.name in ("permute", "transpose", "t"):
        return Lane(_order(node, len(before)).index(lane.axis), lane.first, lane.width)
    if node.name in REDUCTIONS:
        return _through_reduction(node, before, lane)
    if node.name == "constant_pad_nd":
        return _through_pad(node, before, lane)
    if node.name in NORMS | MIXING_NORMS or _leaves_channels_alone(node, before, lane):
        return lane if node.shape == before or node.name not in NORMS | MIXING_NORMS else None
    if pointwise(node):
        # Broadcasting lines axes up from the last one on.
        axis = lane.axis + len(node.shape) - len(before)
        return Lane(axis, lane.first, lane.width) if node.shape[axis] == before[lane.axis] else None
    return None


def _leaves_channels_alone(node: Node, before: tuple[int, ...], lane: Lane) -> bool:
    if len(node.shape) != len(before) or node.shape[lane.axis] != before[lane.axis]:
        return False
    if node.name in POOLS:
        return lane.axis < len(before) - pooled_axes(node)
    if node.name.startswith("upsample_"):
        return lane.axis == 1
    if node.name in ("split", "split_with_sizes", "slice", "narrow"):
        given = arguments(node)
        whole = given.get("step", 1) == 1
        return whole or int(given["dim"]) % len(before) != lane.axis
    return False


def _through_view(before: tuple[int, ...], after: tuple[int, ...], lane: Lane) -> Lane | None:
    ahead, length = math.prod(before[: lane.axis]), before[lane.axis]
    behind = {math.prod(before[lane.axis + 1 : stop]) for stop in range(lane.axis + 1, len(before) + 1)}
    for axis, n in enumerate(after):
        # An axis of length 1 may stand in front: the axis itself is the first that is long enough.
        if math.prod(after[:axis]) == ahead and n >= length and n % length == 0 and n // length in behind:
            if n == length == 1 and axis != lane.axis:
                continue
            times = n // length
            return Lane(axis, lane.first * times, lane.width * times)
    return None


def _order(node: Node, n: int) -> list[int]:
    given = arguments(node)
    if node.name == "permute":
        return [dim % n for dim in given["dims"]]
    order = list(range(n))
    first, second = (given.get(name, default) % n for name, default in (("dim0", 0), ("dim1", 1)))
    order[first], order[second] = second, first
    return order


def _through_reduction(node: Node, before: tuple[int, ...], lane: Lane) -> Lane | None:
    dims = reduced_dims(node, len(before))
    if lane.axis in dims:
        return None
    axis = lane.axis if arguments(node).get("keepdim") else lane.axis - sum(dim < lane.axis for dim in dims)
    return Lane(axis, lane.first, lane.width)


def _through_pad(node: Node, before: tuple[int, ...], lane: Lane) -> Lane | None:
    pad, place = arguments(node)["pad"], 2 * (len(before) - 1 - lane.axis)
    front, back = pad[place : place + 2] if place < len(pad) else (0, 0)
    return None if min(front, back) < 0 else Lane(lane.axis, lane.first + front, lane.width)


def _through_cat(graph: Graph, source: int, lane: Lane, node: Node) -> tuple[Lane, ...]:
    given = arguments(node)
    if int(given["dim"]) % len(node.shape) != lane.axis:
        return (lane,)
    found, start = [], 0
    for part in given["tensors"]:
        if part == Ref(source):
            found.append(Lane(lane.axis, start + lane.first, lane.width))
        start += graph.nodes[part.index].shape[lane.axis] if isinstance(part, Ref) else part.shape[lane.axis]
    return tuple(found)


def reads(source: int, lane: Lane, node: Node, n: int) -> bool | None:
    """Whether a node weighs the channels of a value with `n` axes; None where it is neither convolution nor product.

    False for one that is given weights that depend on the image, or that maps another axis.
    """
    given = arguments(node)
    if node.name in CONVOLUTIONS:
        return given["input"] == Ref(source) and node.refs() == (source,) and lane.axis == 1
    if node.name in PRODUCTS:
        mapped = given["mat1" if node.name == "addmm" else "self"]
        return mapped == Ref(source) and node.refs() == (source,) and lane.axis == n - 1
    return None
