"""What is known of the operations that networks are made of: which slide over space, and which leave it alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .graph import Graph, Node, refs_in

CONVOLUTIONS = frozenset({"convolution"})
MAX_POOLS = frozenset({"max_pool2d_with_indices", "max_pool3d_with_indices"})
AVERAGE_POOLS = frozenset({"avg_pool2d", "avg_pool3d"})
ADAPTIVE_POOLS = frozenset(
    {"_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"}
)
#: Batch norm, in evaluation mode, by the names of its implementations.
NORMS = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"}
)
#: Each value depends on the one at the same place alone; operations that ATen itself calls pointwise come on top.
_PLACE_BY_PLACE = frozenset({"hardswish", "_prelu_kernel", "clone", "alias", "detach", "_to_copy", "lift_fresh"})
VIEWS = frozenset({"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "_reshape_alias"})
REDUCTIONS = frozenset({"mean", "sum", "amax"})


@dataclass(frozen=True)
class Sliding:
    """How an operation slides over the last axes of its input; one number per axis.

    Cell `u` of the output sees cells ``u * stride - padding + j * dilation`` of the input, ``0 <= j < kernel``.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def trivial(self) -> tuple[bool, ...]:
        """Per axis, whether each cell sees just its own."""
        quadruples = zip(self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((kernel, stride, padding) == (1, 1, 0) for kernel, stride, padding, _ in quadruples)


def arguments(node: Node) -> dict[str, Any]:
    """All arguments of a node's operation by name, with the defaults that the call left out."""
    found: dict[str, Any] = {}
    for place, argument in enumerate(node.op._schema.arguments if node.op is not None else ()):
        given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        found[argument.name] = given
    return found


def sliding(node: Node) -> Sliding | None:
    """How a convolution or pool slides; None for a transposed convolution and everything else."""
    given = arguments(node)
    if node.name in CONVOLUTIONS:
        if given["transposed"] or not isinstance(given["weight"], torch.Tensor):
            return None
        kernel = tuple(given["weight"].shape[2:])
        return Sliding(kernel, *(_spread(given[name], len(kernel)) for name in ("stride", "padding", "dilation")))
    if node.name in MAX_POOLS | AVERAGE_POOLS:
        kernel = _spread(given["kernel_size"], pooled_axes(node))
        spread = (given["stride"] or kernel, given["padding"], given.get("dilation", 1))
        return Sliding(kernel, *(_spread(value, len(kernel)) for value in spread))
    return None


def pooled_axes(node: Node) -> int:
    """Over how many axes a pool runs, by its name."""
    return int(node.name.partition("pool")[2][0])


def _spread(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def pointwise(node: Node) -> bool:
    """Whether each value depends only on those at the same place (after broadcasting)."""
    tags = getattr(node.op, "tags", ())
    return torch.Tag.pointwise in tags or node.name in _PLACE_BY_PLACE


def fixed_norm(node: Node) -> bool:
    """Whether it is a batch norm with stored statistics: one factor and one summand per channel."""
    given = arguments(node) if node.name in NORMS else {}
    stored = isinstance(given.get("running_mean"), torch.Tensor) and isinstance(given.get("running_var"), torch.Tensor)
    return stored and not given.get("training", False)


def reduced_dims(node: Node, n: int) -> tuple[int, ...]:
    """The axes, counted from the front, that a reduction runs over in an input with `n` axes."""
    dims = arguments(node).get("dim")
    if dims is None or dims == []:
        return tuple(range(n))
    return tuple(sorted(dim % n for dim in ((dims,) if isinstance(dims, int) else dims)))


def spatial_axes(graph: Graph, n_space: int) -> list[tuple[int, ...] | None]:
    """Which axes of each node's value run along the spatial axes of the input.

    Parameters
    ----------
    graph
        Of one image.
    n_space
        Number of spatial axes of the input; they are its last ones.

    Returns
    -------
    list
        One per node, in the order of the input's axes; None where space was pooled away, mixed up with channels, or
        handled by an operation that is not known.
    """
    n = len(graph.nodes[0].shape)
    found: list[tuple[int, ...] | None] = [tuple(range(n - n_space, n))]
    for node in graph.nodes[1:]:
        refs = node.refs()
        known = [found[index] for index in refs]
        keeps = all(axes is not None for axes in known) and node.shape[:1] == (1,)
        found.append(_axes(node, graph, [axes for axes in known if axes is not None]) if keeps else None)
    return found


def _axes(node: Node, graph: Graph, known: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    axes = known[0]
    shape = graph.nodes[node.refs()[0]].shape
    if node.name in VIEWS:
        return _through_view(shape, node.shape, axes)
    if node.name in ("transpose", "permute"):
        order = _order(node, len(shape))
        return tuple(order.index(axis) for axis in axes) if order[0] == 0 else None
    if len(node.shape) != len(shape) or any(other != axes for other in known):
        return None
    if pointwise(node) or fixed_norm(node):
        return axes
    if node.name in ("cat", "split", "split_with_sizes", "slice", "narrow", "chunk"):
        dim = int(arguments(node)["dim"]) % len(shape)
        return axes if dim not in (0, *axes) else None
    if node.name == "constant_pad_nd":
        return axes if _padded(node, len(shape)) <= set(axes) else None
    if node.name in REDUCTIONS:
        dims = reduced_dims(node, len(shape))
        return axes if 0 not in dims and (not set(dims) & set(axes) or set(axes) <= set(dims)) else None
    return axes if _slides_over(node, axes, len(shape)) else None


def _padded(node: Node, n: int) -> set[int]:
    pad = arguments(node)["pad"]
    return {n - 1 - place // 2 for place, width in enumerate(pad) if width}


def _slides_over(node: Node, axes: tuple[int, ...], n: int) -> bool:
    if node.name in ADAPTIVE_POOLS:
        return n - min(axes) <= pooled_axes(node)
    how, given = sliding(node), arguments(node)
    # A weight or bias that itself depends on the image is not known to slide.
    if how is None or node.refs() != refs_in(given["input" if node.name in CONVOLUTIONS else "self"]):
        return False
    along = range(n - len(how.kernel), n)
    return set(axes) <= set(along) and all(
        trivial or axis in axes for axis, trivial in zip(along, how.trivial, strict=True)
    )


def _order(node: Node, n: int) -> list[int]:
    given = arguments(node)
    if node.name == "permute":
        return [dim % n for dim in given["dims"]]
    order = list(range(n))
    first, second = given["dim0"] % n, given["dim1"] % n
    order[first], order[second] = second, first
    return order


def _through_view(before: tuple[int, ...], after: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Where axes end up when a value is laid out anew; None unless each stays an axis of its own."""
    found: list[int] = []
    for axis in axes:
        ahead, length = math.prod(before[:axis]), before[axis]
        there = [i for i, n in enumerate(after) if n == length and math.prod(after[:i]) == ahead]
        # An axis of length 1 could be any of several.
        if len(there) != 1:
            return None
        found += there
    return tuple(found)
