"""Decides which windows are computed together, and which piece of each map is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..graph import Node, Ref
from ..operations import CONVOLUTIONS, arguments, sliding
from .crops import Crop, whole_crop
from .regions import Region, Spread

#: From this share of a map on, the whole map is computed: cutting the piece costs more than it saves.
WHOLE_FROM = 0.95
#: What moving a value, and starting an operation on pieces, take, in multiplications; and how often more a value is
#: moved where pieces are cut. Measured on a processor with 110 G multiplications and 10 GB a second.
_MOVED, _STARTED, _CUT = 40, 1.5e7, 3
#: Windows computed together. More would fall out of the caches, fewer would not fill the matrix products.
TOGETHER = 16


@dataclass(frozen=True)
class Plan:
    """How the windows of one batch go through the network.

    Parameters
    ----------
    windows
        Which windows.
    crops
        Piece of each node's map; None for a node without spatial axes.
    """

    windows: np.ndarray
    crops: list[Crop | None]


def batches(spread: Spread, nodes: list[Node], kept: list[int]) -> list[np.ndarray]:
    """Put windows together that change pieces of about the same size.

    All windows of a batch share one size of piece at each node, so that those at the border, which change less of
    each map, would otherwise be computed at the size of those in the middle.

    Parameters
    ----------
    spread
        What all the windows change.
    nodes
        Of the graph.
    kept
        Those that are computed.
    """
    window = spread.regions[0]
    assert window is not None, "windows are the change at the input"
    n_axis, n = window.start.shape
    extent = _extent(spread, nodes, kept, n_axis, n)
    of_one = max(1, round(TOGETHER ** (1 / n_axis)))
    key = np.zeros(n, np.int64)
    for axis in range(n_axis):
        intervals, kind = np.unique(
            np.stack([extent[axis], window.start[axis], window.end[axis]]), axis=1, return_inverse=True
        )
        key = key * (intervals.shape[1] + 1) + kind.reshape(-1) // of_one
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order])) + 1
    groups = np.split(order, edges)
    return [part for group in groups for part in np.array_split(group, math.ceil(len(group) / (2 * TOGETHER)))]


def _extent(spread: Spread, nodes: list[Node], kept: list[int], n_axis: int, n: int) -> np.ndarray:
    """Share of each axis that a window changes, weighted by how costly the node is."""
    total = np.zeros((n_axis, n))
    for index in kept:
        region, cost = spread.regions[index], products(nodes[index])
        if region is not None and cost:
            total += cost * (region.end - region.start) / np.array(spread.length[index])[:, None]
    return np.round(total / max(total.max(), 1), 9)


def make_plan(windows: np.ndarray, spread: Spread, nodes: list[Node], kept: list[int]) -> Plan:
    """Choose the pieces for one batch of windows.

    Parameters
    ----------
    windows
        Which windows.
    spread
        What all the windows change.
    nodes
        Of the graph.
    kept
        Those that are computed.
    """
    crops: list[Crop | None] = [None] * len(nodes)
    for index in kept:
        if spread.axes[index] is None:
            continue
        region, length = spread.regions[index], spread.length[index]
        if region is None:
            crops[index] = whole_crop(length, len(windows))
        else:
            before = [crops[ref] for ref in nodes[index].refs()]
            crops[index] = _crop(nodes[index], region.only(windows), length, before, spread, index)
    return Plan(windows, crops)


def _crop(
    node: Node, region: Region, length: tuple[int, ...], before: list[Crop | None], spread: Spread, index: int
) -> Crop:
    known = [crop for crop in before if crop is not None]
    if known and not _moves(node) and all(crop.equals(known[0]) for crop in known):
        # Cut as what it is computed from, so that nothing need be cut anew.
        return Crop(known[0].start + shift_of(node, spread.axes[index] or ()), known[0].size)
    size = (region.end - region.start).max(axis=1)
    lengths = spread.length
    joins = len(known) > 1 and any(crop.size == lengths[ref] for ref, crop in zip(node.refs(), known, strict=True))
    if joins or math.prod(size.tolist()) >= WHOLE_FROM * math.prod(length):
        return whole_crop(length, region.start.shape[1])
    return Crop(np.minimum(region.start, np.array(length)[:, None] - size[:, None]), tuple(size.tolist()))


def _moves(node: Node) -> bool:
    """Whether cells of its value are not cells of what it is computed from."""
    return node.op is None or sliding(node) is not None


def shift_of(node: Node, axes: tuple[int, ...]) -> np.ndarray:
    """Where cell 0 of what a node is computed from lies in its own map, per axis."""
    if node.name != "constant_pad_nd":
        return np.zeros((len(axes), 1), np.int64)
    pad = arguments(node)["pad"]
    places = [2 * (len(node.shape) - 1 - axis) for axis in axes]
    return np.array([pad[place] if place < len(pad) else 0 for place in places], np.int64)[:, None]


def products(node: Node) -> float:
    """Multiplications of a convolution or linear layer for one image; 0 for anything else."""
    if node.name in CONVOLUTIONS:
        weight = arguments(node)["weight"]
        return 0.0 if isinstance(weight, Ref) else math.prod(node.shape) * math.prod(weight.shape[1:])
    if node.name in ("mm", "addmm"):
        matrix = arguments(node)["mat2"]
        return 0.0 if isinstance(matrix, Ref) else math.prod(node.shape) * matrix.shape[0]
    return 0.0


@dataclass(frozen=True)
class Effort:
    """What computing pieces takes, and what running the network anew for every window would.

    Parameters
    ----------
    products, products_anew
        Multiplications.
    time, time_anew
        Estimates of time, in multiplications: moving values and starting operations count, too.
    """

    products: float
    products_anew: float
    time: float
    time_anew: float

    @property
    def share(self) -> float:
        """Multiplications over those of running the network anew; 1 where there are none."""
        return self.products / self.products_anew if self.products_anew else 1.0


def estimate(plans: list[Plan], spread: Spread, nodes: list[Node], kept: list[int]) -> Effort:
    """Estimate what plans take, for all windows together."""
    done = whole = time = anew = 0.0
    for plan in plans:
        for index in kept:
            n, crop, node = len(plan.windows), plan.crops[index], nodes[index]
            part = 1.0 if crop is None else math.prod(crop.size) / math.prod(spread.length[index])
            cost, size = n * products(node), n * math.prod(node.shape)
            whole, done = whole + cost, done + cost * part
            anew += cost + _MOVED * size
            time += cost * part + _MOVED * size * part * (1 if part == 1 else _CUT) + _STARTED
    return Effort(done, whole, time, anew)
