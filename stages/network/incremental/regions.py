"""How far a change of the input spreads: interval arithmetic along each axis, from operation to operation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch.utils._pytree import tree_leaves

from ..graph import Graph, Node
from ..operations import (
    ADAPTIVE_POOLS,
    REDUCTIONS,
    VIEWS,
    Sliding,
    arguments,
    fixed_norm,
    reduced_dims,
    sliding,
    spatial_axes,
)


@dataclass(frozen=True)
class Region:
    """The cells of a map that a window may have changed, from `start` up to, without, `end`.

    Parameters
    ----------
    start, end
        One row per spatial axis, one column per window.
    """

    start: Int[np.ndarray, "axis window"]
    end: Int[np.ndarray, "axis window"]

    def only(self, windows: np.ndarray) -> Region:
        """For some of the windows."""
        return Region(self.start[:, windows], self.end[:, windows])


@dataclass(frozen=True)
class Spread:
    """What a change of the input changes at each node.

    Parameters
    ----------
    axes
        Of each node, its spatial axes; None where it has none that are known.
    length
        Of each node, cells along these axes.
    regions
        Of each node, what is changed; None where everything may be.
    lost_at
        The first operation that is not known, and loses track of space; None where there is none.
    """

    axes: list[tuple[int, ...] | None]
    length: list[tuple[int, ...]]
    regions: list[Region | None]
    lost_at: str | None


def spread_change(graph: Graph, n_space: int, window: Region, kept: Collection[int]) -> Spread:
    """Follow windows through a network.

    Parameters
    ----------
    graph
        Of one image.
    n_space
        Number of spatial axes.
    window
        What is changed of the input.
    kept
        The nodes that are computed again.
    """
    axes = spatial_axes(graph, n_space)
    length = [tuple(node.shape[axis] for axis in along or ()) for node, along in zip(graph.nodes, axes, strict=True)]
    regions: list[Region | None] = [window]
    lost_at = None
    for index, (node, along) in enumerate(zip(graph.nodes[1:], axes[1:], strict=True), 1):
        spatial = any(axes[ref] is not None and max(length[ref]) > 1 for ref in node.refs())
        if index in kept and along is None and spatial and node.name not in VIEWS | REDUCTIONS:
            lost_at = lost_at or node.name
        regions.append(None if along is None else _changed(node, graph, length, regions, along))
    return Spread(axes, length, regions, lost_at)


def _changed(
    node: Node,
    graph: Graph,
    length: list[tuple[int, ...]],
    regions: list[Region | None],
    axes: tuple[int, ...],
) -> Region | None:
    after = tuple(node.shape[axis] for axis in axes)
    refs = node.refs()
    before = [regions[ref] for ref in refs]
    known = [region for region in before if region is not None]
    if len(known) < len(before) or differs_by_place(node, axes):
        return None
    if node.name in ADAPTIVE_POOLS:
        return known[0] if length[refs[0]] == after else None
    if node.name in REDUCTIONS and set(reduced_dims(node, len(graph.nodes[refs[0]].shape))) & set(axes):
        return None
    how = sliding(node)
    if how is not None:
        return slid(known[0], how, _along(how, node, axes), after)
    if node.name == "constant_pad_nd":
        return _padded(known[0], node, axes)
    if any(length[ref] != after for ref in refs) and node.name not in VIEWS:
        # What has one cell is spread over the whole map.
        return None
    start = np.min([region.start for region in known], axis=0)
    return Region(start, np.max([region.end for region in known], axis=0))


def differs_by_place(node: Node, axes: tuple[int, ...]) -> bool:
    """Whether an operation takes constants that are not the same all over the map."""
    if sliding(node) is not None or fixed_norm(node):
        return False
    back = [axis - len(node.shape) for axis in axes]
    constants = [value for value in tree_leaves((node.args, dict(node.kwargs))) if isinstance(value, torch.Tensor)]
    return any(value.ndim >= -axis and value.shape[axis] > 1 for value in constants for axis in back)


def _along(how: Sliding, node: Node, axes: tuple[int, ...]) -> list[int]:
    """Where the spatial axes stand among those that an operation slides over."""
    return [axis - (len(node.shape) - len(how.kernel)) for axis in axes]


def slid(region: Region, how: Sliding, along: list[int], after: tuple[int, ...]) -> Region:
    """What an operation that slides makes of a change.

    Cell `u` of the output sees ``u * stride - padding + j * dilation``, so that a change of ``[a, b)`` reaches those
    with ``a + padding - (kernel - 1) * dilation <= u * stride <= b - 1 + padding``.

    Parameters
    ----------
    region
        Of the input.
    how
        The operation.
    along
        Place of each spatial axis among those it slides over.
    after
        Length of the output along each.
    """
    kernel, stride, padding, dilation = (
        np.array([values[i] for i in along])[:, None] for values in (how.kernel, how.stride, how.padding, how.dilation)
    )
    last = np.array(after)[:, None] - 1
    start = -(-(region.start + padding - (kernel - 1) * dilation) // stride)
    start = np.clip(start, 0, last)
    end = np.clip((region.end - 1 + padding) // stride, start, last) + 1
    return Region(start, end)


def _padded(region: Region, node: Node, axes: tuple[int, ...]) -> Region | None:
    pad = arguments(node)["pad"]
    if min(pad) < 0:
        return None
    places = [2 * (len(node.shape) - 1 - axis) for axis in axes]
    shift = np.array([pad[place] if place < len(pad) else 0 for place in places])[:, None]
    return Region(region.start + shift, region.end + shift)


def sliding_along(how: Sliding, node: Node, axes: tuple[int, ...]) -> Sliding:
    """An operation's numbers for the spatial axes alone, in their order."""
    along = _along(how, node, axes)
    return Sliding(*(tuple(values[i] for i in along) for values in (how.kernel, how.stride, how.padding, how.dilation)))
