"""Carries a batch of windows through the network, piece by piece."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..graph import Node, Ref
from ..operations import AVERAGE_POOLS, CONVOLUTIONS, MAX_POOLS, REDUCTIONS, VIEWS, arguments, pointwise, sliding
from .crops import Crop, Ground, compose, whole_crop
from .fusion import consumers
from .kernels import Convolution
from .plan import Plan, shift_of
from .regions import Spread, differs_by_place, sliding_along

#: Nodes whose value may share the memory of what it is computed from.
_SHARING = VIEWS | {
    "input", "alias", "detach", "_to_copy", "lift_fresh", "transpose", "permute", "split", "split_with_sizes",
    "slice", "narrow", "chunk", "constant_pad_nd", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
}  # fmt: skip
#: Operations that may overwrite a piece that nobody else needs.
_OVERWRITING = {name: getattr(torch.ops.aten, f"{name}_") for name in ("relu", "silu", "hardtanh", "hardswish", "add")}


class Replay:
    """A network's graph over one image, ready to be computed again for windows of it.

    Parameters
    ----------
    nodes
        Of the graph, as they are to be computed.
    values
        Of each node for the image as it is.
    spread
        What the windows change.
    kept
        The nodes to be computed.
    tiled
        Whether convolutions are computed with fewer multiplications where that is faster.
    """

    def __init__(
        self, nodes: list[Node], values: list[Tensor], spread: Spread, kept: list[int], tiled: bool = False
    ) -> None:
        self.nodes, self.values, self.spread, self.kept, self.tiled = nodes, values, spread, kept, tiled
        self.taken = consumers(nodes, kept)
        self.grounds: dict[tuple[Any, ...], Ground] = {}
        self.behind = {index: after for after in kept if (index := self._rectifies(after)) is not None}
        self.convolutions: dict[tuple[int, bool], Convolution] = {}

    def _rectifies(self, index: int) -> int | None:
        """The convolution that a ReLU alone follows; None where it follows something else."""
        node = self.nodes[index]
        if node.name != "relu":
            return None
        (ref,) = node.refs()
        before = self.nodes[ref]
        known = before.name in CONVOLUTIONS and sliding(before) is not None and self.spread.axes[ref] is not None
        return ref if known and self.taken[ref] == 1 else None

    def run(self, plan: Plan, pieces: Tensor, last: int) -> Tensor:
        """Compute up to a node.

        Parameters
        ----------
        plan
            Of the batch.
        pieces
            The changed pieces of the input ``(window, channel, *space)``.
        last
            Which node is wanted.

        Returns
        -------
        Tensor
            Its value for each window, whole: ``(window, ...)``.
        """
        computed = {0: pieces}
        left = self.taken.copy()
        for index in self.kept[1:]:
            if index > last:
                break
            node = self.nodes[index]
            computed[index] = self._value(index, node, plan, computed)
            for ref in node.refs():
                left[ref] -= 1
                if not left[ref] and ref != last:
                    computed.pop(ref)
        return self._whole(last, plan, computed)

    def finish(self, first: int, value: Tensor, output: int) -> Tensor:
        """Compute from a node without spatial axes, whose value is known for each window, to the output."""
        computed = {first: value}
        for index in self.kept:
            if first < index <= output:
                node = self.nodes[index]
                computed[index] = _anywhere(node, self._shapes(node), {ref: computed[ref] for ref in node.refs()})
        return computed[output]

    def _value(self, index: int, node: Node, plan: Plan, computed: dict[int, Tensor]) -> Tensor:
        crop, length = plan.crops[index], self.spread.length[index]
        if crop is None:
            whole = {ref: self._whole(ref, plan, computed) for ref in node.refs()}
            return _anywhere(node, self._shapes(node), whole)
        region, n = self.spread.regions[index], len(plan.windows)
        if node.name == "relu" and self._rectified(node.refs()[0], plan):
            return computed[node.refs()[0]]
        slides = sliding(node) is not None
        if region is None or (slides and crop.size == length):
            given = {ref: self._whole(ref, plan, computed) for ref in node.refs()}
            if slides and node.name in CONVOLUTIONS:
                return self._convolution(index, plan)(next(iter(given.values())), padded=True)
            return _direct(node, n, given)
        if slides:
            return self._slide(index, node, crop, plan, computed)
        return self._local(index, node, crop, plan, computed)

    def _rectified(self, index: int, plan: Plan) -> bool:
        """Whether a convolution does the work of the ReLU behind it, too: both are computed at one place."""
        after = self.behind.get(index)
        first, second = plan.crops[index], None if after is None else plan.crops[after]
        return first is not None and second is not None and first.equals(second)

    def _convolution(self, index: int, plan: Plan) -> Convolution:
        key = (index, self._rectified(index, plan))
        if key not in self.convolutions:
            self.convolutions[key] = Convolution(self.nodes[index], key[1], self.tiled)
        return self.convolutions[key]

    def _shapes(self, node: Node) -> dict[int, tuple[int, ...]]:
        return {ref: self.nodes[ref].shape for ref in node.refs()}

    def _whole(self, ref: int, plan: Plan, computed: dict[int, Tensor]) -> Tensor:
        if plan.crops[ref] is None:
            return computed[ref]
        return self._piece(ref, whole_crop(self.spread.length[ref], len(plan.windows)), plan, computed)

    def _piece(
        self,
        ref: int,
        wanted: Crop,
        plan: Plan,
        computed: dict[int, Tensor],
        border: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        fill: float = 0.0,
    ) -> Tensor:
        """What a node gives, at another place than it was computed at."""
        at, axes = plan.crops[ref], self.spread.axes[ref]
        assert at is not None, "only maps are cut"
        assert axes is not None, "only maps are cut"
        if at.equals(wanted):
            return computed[ref]
        before, after = border or ((0,) * len(axes), (0,) * len(axes))
        key = (ref, before, after, fill)
        if key not in self.grounds:
            self.grounds[key] = Ground(self.values[ref], axes, before, after, fill)
        return compose(self.grounds[key], computed[ref], axes, at, wanted)

    def _slide(self, index: int, node: Node, crop: Crop, plan: Plan, computed: dict[int, Tensor]) -> Tensor:
        """A convolution or pool, unpadded, on pieces that reach as far as it looks."""
        (ref,) = node.refs()
        axes, length = self.spread.axes[index], self.spread.length
        every = sliding(node)
        assert axes is not None, "it is a map"
        assert every is not None, "it slides"
        how = sliding_along(every, node, axes)
        reach = [(k - 1) * d + 1 for k, d in zip(how.kernel, how.dilation, strict=True)]
        start = crop.start * np.array(how.stride)[:, None] - np.array(how.padding)[:, None]
        size = tuple((n - 1) * s + r for n, s, r in zip(crop.size, how.stride, reach, strict=True))
        after = tuple(
            max(0, (m - 1) * s + r - p - n)
            for m, s, r, p, n in zip(length[index], how.stride, reach, how.padding, length[ref], strict=True)
        )
        fill = -math.inf if node.name in MAX_POOLS else 0.0
        piece = self._piece(ref, Crop(start, size), plan, computed, (how.padding, after), fill)
        if node.name in AVERAGE_POOLS:
            return _averaged(node, piece, how, crop, length[ref], axes)
        if node.name in CONVOLUTIONS:
            return self._convolution(index, plan)(piece, padded=False)
        zeros = [0] * len(every.kernel)
        return node.op(piece, every.kernel, every.stride, zeros, every.dilation, False)[node.pick or 0]

    def _local(self, index: int, node: Node, crop: Crop, plan: Plan, computed: dict[int, Tensor]) -> Tensor:
        """An operation that stays at its place."""
        axes = self.spread.axes[index]
        assert axes is not None, "it is a map"
        shift = shift_of(node, axes)
        wanted = Crop(crop.start - shift, crop.size) if shift.any() else crop
        given = {ref: self._piece(ref, wanted, plan, computed) for ref in node.refs()}
        first = node.args[0] if node.args else None
        if node.name == "constant_pad_nd" or not pointwise(node) or not isinstance(first, Ref):
            return _moved(node, given, len(plan.windows), axes, crop)
        own = self.nodes[first.index].name not in _SHARING and self.taken[first.index] == 1
        overwriting = _OVERWRITING.get(node.name) if own and given[first.index].shape[0] > 0 else None
        op = node.op if overwriting is None else getattr(overwriting, node.op._overloadname)
        return _called(node, given, op)


def _called(node: Node, given: dict[int, Tensor], op: Any = None) -> Tensor:
    n = len(next(iter(given.values())))

    def stands_for(value: Any) -> Any:
        if isinstance(value, Ref):
            return given[value.index]
        # Joining does not broadcast.
        constant = node.name == "cat" and isinstance(value, Tensor)
        return value.expand(n, *value.shape[1:]) if constant else value

    args, kwargs = tree_map(stands_for, (node.args, dict(node.kwargs)), is_leaf=lambda value: isinstance(value, Ref))
    result = (op or node.op)(*args, **kwargs)
    return result if node.pick is None else result[node.pick]


def _moved(node: Node, given: dict[int, Tensor], n: int, axes: tuple[int, ...], crop: Crop) -> Tensor:
    """What is laid out anew, padded outside the piece, or left as it is."""
    value = next(iter(given.values()))
    if node.name in VIEWS:
        shape = [n, *node.shape[1:]]
        for axis, size in zip(axes, crop.size, strict=True):
            shape[axis] = size
        return value.reshape(shape)
    same = node.name == "constant_pad_nd" or "adaptive" in node.name
    return value if same else _called(node, given)


def _direct(node: Node, n: int, given: dict[int, Tensor]) -> Tensor:
    """An operation on whole maps; the image axis may be of any length."""
    if node.name in VIEWS:
        return next(iter(given.values())).reshape(n, *node.shape[1:])
    return _called(node, given)


def _averaged(
    node: Node, piece: Tensor, how: Any, crop: Crop, length: tuple[int, ...], axes: tuple[int, ...]
) -> Tensor:
    """An average pool, with the number of cells that it divides by at each place."""
    given, every = arguments(node), sliding(node)
    assert every is not None, "it slides"
    zeros = [0] * len(every.kernel)
    total = node.op(piece, every.kernel, every.stride, zeros, False, True, 1)
    if given.get("divisor_override"):
        return total / given["divisor_override"]
    for axis, along in enumerate(axes):
        first = (crop.start[axis][:, None] + np.arange(crop.size[axis])) * how.stride[axis] - how.padding[axis]
        last = np.minimum(first + how.kernel[axis], length[axis] + how.padding[axis])
        if not given["count_include_pad"]:
            first, last = first.clip(0), last.clip(max=length[axis])
        shape = [1] * total.ndim
        shape[0], shape[along] = first.shape
        total = total / torch.from_numpy(last - first).to(total).view(shape)
    # Axes without space have one cell each, and a kernel of 1.
    return total


def _anywhere(node: Node, shapes: dict[int, tuple[int, ...]], given: dict[int, Tensor]) -> Tensor:
    """An operation that loses or has lost space, for each window by itself."""
    images = node.shape[:1] == (1,) and all(shape[:1] == (1,) for shape in shapes.values())
    n = len(next(iter(given.values())))
    if images and (node.name in VIEWS or _by_row(node, shapes)):
        return _direct(node, n, given)
    refs = list(given)

    def one(*values: Tensor) -> Tensor:
        return _called(node, dict(zip(refs, values, strict=True)))

    apart = [given[ref].unsqueeze(1) if shapes[ref][:1] == (1,) else given[ref] for ref in refs]
    result = torch.func.vmap(one)(*apart)
    return result.squeeze(1) if node.shape[:1] == (1,) else result


def _by_row(node: Node, shapes: dict[int, tuple[int, ...]]) -> bool:
    n_axis = {len(shape) for shape in (*shapes.values(), node.shape)}
    if node.name in ("mm", "addmm"):
        given = arguments(node)
        return [given["self" if node.name == "mm" else "mat1"]] == [Ref(ref) for ref in shapes]
    if node.name in REDUCTIONS:
        dims = arguments(node).get("dim")
        (shape,) = shapes.values()
        return bool(dims) and all(dim % len(shape) for dim in ((dims,) if isinstance(dims, int) else dims))
    return pointwise(node) and len(n_axis) == 1 and not differs_by_place(node, (0,))
