"""What every value of a network sees of the image, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch

from .field_map import Field, FieldMap, clash_of, image_seen, mixed
from .graph import Graph, Node, Ref
from .operations import CONVOLUTIONS, NORMS, REDUCTIONS, VIEWS, arguments, fixed_norm, pointwise, reduced_dims
from .reach import Taps
from .taps import cut, padded, part_start, pools_all, shifted, window_axes, window_taps

_SPLITS = frozenset({"split", "split_with_sizes", "chunk"})
_SIDE_BY_SIDE = frozenset({"cat", "stack"})
_PRODUCTS = frozenset({"addmm", "mm"})
_SOFTMAX = frozenset({"_softmax", "_log_softmax"})
_STATISTICS = REDUCTIONS | {"amin", "var", "std", "prod", "logsumexp", "linalg_vector_norm", "any", "all"}


@dataclass(frozen=True)
class Lost:
    """What is known of a value in which no cell of the image can be told from another any more.

    Parameters
    ----------
    reason
        How that came about.
    whole
        Whether each value sees all of the image.
    cells
        How many cells were laid side by side; None where nobody knows.
    """

    reason: str
    whole: bool = False
    cells: int | None = None


State = FieldMap | Lost


def propagate(graph: Graph, n_space: int) -> list[State]:
    """Work out what every value of a network sees.

    Parameters
    ----------
    graph
        Of one image.
    n_space
        Number of spatial axes of the image; they are its last ones.

    Returns
    -------
    list
        One per node.
    """
    found: list[State] = [image_seen(graph.nodes[0].shape, n_space)]
    for node in graph.nodes[1:]:
        before = [found[ref] for ref in node.refs()]
        shapes = [graph.nodes[ref].shape for ref in node.refs()]
        found.append(_step(node, before, shapes))
    return found


def _step(node: Node, before: list[State], shapes: list[tuple[int, ...]]) -> State:
    seen = [state for state in before if isinstance(state, FieldMap)]
    lost = [state for state in before if isinstance(state, Lost)]
    if lost:
        return _with_lost(node, seen, lost, shapes)
    found = None
    if seen[0].folded is not None:
        found = _while_folded(node, seen, shapes)
    elif node.name == "cat":
        found = _side_by_side(node, dict(zip(node.refs(), seen, strict=True)), shapes[0])
    elif len(seen) == 1:
        found = _alone(node, seen[0], shapes[0])
    elif pointwise(node):
        found = _together(node, seen, shapes)
    if found is None:
        whole = all(state.everywhere() for state in seen)
        cells = max(prod(shape[axis] for axis in state.axes) for state, shape in zip(seen, shapes, strict=True))
        laid_out = node.name in VIEWS | {"as_strided"} and len(seen) == 1
        how = "the cells of the map are laid out anew" if laid_out else "space is lost, or handled in an unknown way"
        whole = whole or _contracts(node, shapes[0], cells)
        sizes = f" ({_by(shapes[0])} as {_by(node.shape)})" if laid_out else ""
        found = Lost(f"at the operation {node.name} {how}{sizes}", whole, cells if laid_out else None)
    return found


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _with_lost(node: Node, seen: list[FieldMap], lost: list[Lost], shapes: list[tuple[int, ...]]) -> State:
    unclear = next((state for state in lost if not state.whole), None)
    if unclear is not None and any(state.whole for state in lost) and node.name not in _SIDE_BY_SIDE:
        return next(state for state in lost if state.whole)
    if unclear is not None:
        sizes = {state.cells for state in lost if not state.whole}
        cells = sizes.pop() if len(sizes) == 1 else None
        return Lost(unclear.reason, cells is not None and not seen and _contracts(node, shapes[0], cells), cells)
    if seen and pointwise(node) and len({len(shape) for shape in (*shapes, node.shape)}) == 1:
        # What was pooled over the image, laid out anew and multiplied onto a map, leaves its cells where they are.
        kept = [shape for shape in shapes if any(shape[axis] > 1 for axis in seen[0].axes)] or shapes
        found = _together(node, seen, kept[: len(seen)])
        return lost[0] if found is None else found.each(Field.everywhere)
    return lost[0]


def _contracts(node: Node, shape: tuple[int, ...], cells: int) -> bool:
    """Whether each value that an operation gives depends on all cells that were laid side by side."""
    if node.name in _PRODUCTS:
        return shape == (1, prod(shape)) and prod(shape) % cells == 0
    if "attention" in node.name:
        return len(shape) >= 3 and shape[-2] >= cells
    if node.name in _SOFTMAX:
        return shape[int(arguments(node)["dim"])] >= cells
    return node.name in _STATISTICS and prod(shape[dim] for dim in reduced_dims(node, len(shape))) >= cells


def _alone(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    """What an operation that takes one value sees."""
    if node.name in VIEWS:
        return _laid_out(node, state, shape)
    if node.name in ("transpose", "permute"):
        return _turned(node, state, len(shape))
    if len(node.shape) == len(shape) and (pointwise(node) or fixed_norm(node)):
        return _together(node, [state], [shape])
    for names, rule in _RULES:
        if node.name in names:
            return rule(node, state, shape)
    return _windowed(node, state, shape) if window_axes(node) is not None else None


def _together(node: Node, seen: Sequence[FieldMap], shapes: Sequence[tuple[int, ...]]) -> FieldMap | None:
    """Values met place by place, what has one cell being spread over the others."""
    axes = seen[0].axes
    if any(state.axes != axes for state in seen) or any(len(shape) != len(node.shape) for shape in shapes):
        return None
    several = len(seen) > 1
    return _merged([_spread(state, shape, node, several) for state, shape in zip(seen, shapes, strict=True)], node)


def _spread(state: FieldMap, shape: tuple[int, ...], node: Node, several: bool) -> FieldMap:
    """A value as it meets others: one cell for many has no place, nor has what was pooled among its like."""
    alone = [i for i, axis in enumerate(state.axes) if shape[axis] == 1]
    wide = [i for i in alone if node.shape[state.axes[i]] > 1]
    pooled = [i for i in alone if several and all(field.whole[i] for field in state.fields)]
    return state.placeless({*wide, *pooled}) if wide or pooled else state


def _merged(seen: Sequence[FieldMap], node: Node) -> FieldMap:
    if len(seen) == 1 and seen[0].label.shape == _label_shape(node, seen[0].axes, seen[0].label):
        return seen[0]
    fields, stacked = [], []
    shape = np.broadcast_shapes(*(state.label.shape for state in seen))
    for state in seen:
        stacked.append(np.broadcast_to(np.where(state.label < 0, -1, state.label + len(fields)), shape).reshape(-1))
        fields += state.fields
    label, table = mixed(np.stack(stacked), fields, node.name)
    return FieldMap(seen[0].axes, label.reshape(shape), table, seen[0].folded)


def _label_shape(node: Node, axes: Sequence[int], label: np.ndarray) -> tuple[int, ...]:
    return tuple(1 if axis in axes or label.shape[axis] == 1 else n for axis, n in enumerate(node.shape))


def _side_by_side(node: Node, by_ref: dict[int, FieldMap], shape: tuple[int, ...]) -> FieldMap | None:
    axes = next(iter(by_ref.values())).axes
    dim = int(arguments(node).get("dim") or 0) % len(shape)
    if dim in (0, *axes) or any(state.axes != axes for state in by_ref.values()):
        return None
    fields, parts = [], []
    others = np.broadcast_shapes(*(_but(state.label.shape, dim) for state in by_ref.values()))
    for tensor in arguments(node)["tensors"]:
        state = _spread(by_ref[tensor.index], shape, node, len(by_ref) > 1) if isinstance(tensor, Ref) else None
        label = np.full(_but(others, dim, _length(tensor, dim, shape)), -1) if state is None else state.label
        parts.append(np.broadcast_to(np.where(label < 0, -1, label + len(fields)), _but(others, dim, label.shape[dim])))
        fields += () if state is None else state.fields
    label = np.concatenate(parts, dim)
    places, table = mixed(label.reshape(1, -1), fields, node.name)
    clash = clash_of(table, node.name)
    joined = FieldMap(axes, places.reshape(label.shape), table)
    return joined.each(lambda field: replace(field, clash=field.clash or clash))


def _length(constant: object, dim: int, shape: tuple[int, ...]) -> int:
    return constant.shape[dim] if isinstance(constant, torch.Tensor) else shape[dim]


def _but(shape: Sequence[int], dim: int, length: int = 1) -> tuple[int, ...]:
    return (*shape[:dim], length, *shape[dim + 1 :])


def _laid_out(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    n, after = len(shape), node.shape
    last = tuple(range(1, n - 1))
    if after == (prod(shape[:-1]), shape[-1]) and state.axes == last and shape[0] == 1 and n > 2:
        return replace(state, folded=shape[:-1])
    axes: list[int] = []
    for axis in state.axes:
        ahead, start = prod(shape[:axis]), axes[-1] + 1 if axes else 0
        there = [i for i in range(start, len(after)) if after[i] == shape[axis] and prod(after[:i]) == ahead]
        if not there:
            return None
        # Of several axes of length 1, those behind the channels.
        axes.append(there[-1] if len(there) > 1 and node.name == "unsqueeze" else there[0])
    lengths = [1 if axis in axes else length for axis, length in enumerate(after)]
    full = np.broadcast_to(state.label, [1 if axis in state.axes else length for axis, length in enumerate(shape)])
    return FieldMap(tuple(axes), full.reshape(lengths), state.fields)


def _turned(node: Node, state: FieldMap, n: int) -> FieldMap:
    given = arguments(node)
    order = [dim % n for dim in given["dims"]] if node.name == "permute" else list(range(n))
    if node.name == "transpose":
        first, second = given["dim0"] % n, given["dim1"] % n
        order[first], order[second] = second, first
    return replace(state, axes=tuple(order.index(axis) for axis in state.axes), label=state.label.transpose(order))


def _while_folded(node: Node, seen: Sequence[FieldMap], shapes: Sequence[tuple[int, ...]]) -> FieldMap | None:
    state = seen[0]
    if any(other.folded != state.folded or other.axes != state.axes for other in seen) or state.folded is None:
        return None
    if node.name in VIEWS and node.shape[:-1] == state.folded:
        return replace(state, folded=None)
    if pointwise(node) and all(shape == node.shape for shape in shapes):
        return _merged(seen, node)
    given = arguments(node)
    if node.name in _PRODUCTS and isinstance(given["mat1" if node.name == "addmm" else "self"], Ref) and len(seen) == 1:
        return _blended(state, (state.label.ndim - 1,), node)
    return None


def _blended(state: FieldMap, dims: Sequence[int], node: Node) -> FieldMap:
    """After values along axes other than spatial ones have been mixed; what comes of it has length 1 there."""
    kept = [axis for axis in range(state.label.ndim) if axis not in dims]
    moved = state.label.transpose(*dims, *kept)
    label, table = mixed(moved.reshape(prod(moved.shape[: len(dims)]), -1), state.fields, node.name)
    shape = [1 if axis in dims else length for axis, length in enumerate(state.label.shape)]
    return replace(state, label=label.reshape(shape), fields=table)


def _among(node: Node, state: FieldMap, dims: Sequence[int]) -> FieldMap:
    """After all values along some axes have reached each other."""
    places = [i for i, axis in enumerate(state.axes) if axis in dims]
    others = [dim for dim in dims if dim not in state.axes and state.label.shape[dim] > 1]
    return _blended(state.wholly(places), others, node) if others else state.wholly(places)


def _reduced(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    dims = reduced_dims(node, len(shape))
    found = _among(node, state, [dim for dim in dims if shape[dim] > 1])
    for place, axis in enumerate(state.axes):
        if axis in dims:
            found = found.moved(place, Taps(shape[axis], (tuple(range(shape[axis])),)), 1)
    if len(node.shape) == len(shape):
        return found
    if set(dims) & {0, *state.axes}:
        return None
    left = tuple(axis - sum(dim < axis for dim in dims) for axis in state.axes)
    return replace(found, axes=left, label=found.label.squeeze(tuple(dims)))


def _normalised(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap:
    if node.name == "native_layer_norm":
        return _among(node, state, range(len(shape) - len(arguments(node)["normalized_shape"]), len(shape)))
    return _among(node, state, range(1 if node.name == "native_group_norm" else 2, len(shape)))


def _soft(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap:
    return _among(node, state, [int(arguments(node)["dim"]) % len(shape)])


def _expanded(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    return _together(node, [state], [shape]) if len(shape) == len(node.shape) else None


def _sliced(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap:
    dim = arguments(node)["dim"] % len(shape)
    start, step = cut(node, shape)
    if dim in state.axes:
        return state.moved(state.axes.index(dim), Taps(step, ((start,),)), node.shape[dim])
    return _picked(state, dim, range(start, start + node.shape[dim] * step, step))


def _split(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap:
    dim = arguments(node)["dim"] % len(shape)
    start = part_start(node, shape)
    if dim in state.axes:
        return state.moved(state.axes.index(dim), shifted(start), node.shape[dim])
    return _picked(state, dim, range(start, start + node.shape[dim]))


def _picked(state: FieldMap, dim: int, places: Sequence[int]) -> FieldMap:
    return state if state.label.shape[dim] == 1 else replace(state, label=state.label.take(list(places), dim))


def _selected(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    dim = arguments(node)["dim"] % len(shape)
    if dim in state.axes:
        return None
    picked = _picked(state, dim, [arguments(node)["index"] % shape[dim]])
    axes = tuple(axis - (dim < axis) for axis in state.axes)
    return replace(picked, axes=axes, label=picked.label.squeeze(dim))


def _indexed(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    given = arguments(node)
    indices = given["indices"] if node.name == "index" else [None] * (given["dim"] % len(shape)) + [given["index"]]
    named = [dim for dim, index in enumerate(indices) if index is not None]
    order: object = indices[named[0]] if len(named) == 1 else None
    if not isinstance(order, torch.Tensor) or order.ndim != 1 or named[0] in (0, *state.axes):
        return None
    return _picked(state, named[0], np.arange(shape[named[0]])[order.cpu().numpy()].tolist())


def _framed(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    pad, n = arguments(node)["pad"], len(shape)
    label, found = state.label, state
    for axis in range(n - len(pad) // 2, n):
        before, after = pad[2 * (n - 1 - axis) : 2 * (n - axis)]
        if axis in state.axes:
            found = found.moved(state.axes.index(axis), padded(node, n, axis), node.shape[axis])
        elif axis == 0 and (before or after):
            return None
        elif before or after:
            label = np.broadcast_to(label, _but(label.shape, axis, shape[axis]))
            label = label[(slice(None),) * axis + (slice(max(0, -before), shape[axis] - max(0, -after)),)]
            wide = [(max(0, before), max(0, after)) if i == axis else (0, 0) for i in range(n)]
            label = np.pad(label, wide, constant_values=-1)
    return replace(found, label=label)


def _windowed(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    """What windows see that are moved over the last axes; a convolution mixes the channels of each of its groups."""
    n = len(shape)
    along = range(n - (window_axes(node) or 0), n)
    if not set(state.axes) <= set(along):
        return None
    across = [axis for axis in along if axis not in state.axes and state.label.shape[axis] > 1]
    found = _blended(state, across, node) if across else state
    found = found.wholly([i for i, axis in enumerate(state.axes) if pools_all(node, shape, axis)])
    for place, axis in enumerate(state.axes):
        reason = (
            f"the operation {node.name} makes {node.shape[axis]} cells of {shape[axis]} in a way that never repeats"
        )
        found = found.moved(place, window_taps(node, shape, axis), node.shape[axis], reason)
    return _convolved(node, found, shape) if node.name in CONVOLUTIONS else found


def _convolved(node: Node, state: FieldMap, shape: tuple[int, ...]) -> FieldMap | None:
    given = arguments(node)
    if len(node.refs()) != 1 or not isinstance(given["input"], Ref) or len(shape) != given["weight"].ndim:
        return None
    groups, channels = int(given["groups"]), node.shape[1]
    full = np.broadcast_to(state.label, _but(state.label.shape, 1, shape[1]))
    label, table = mixed(full.reshape(groups, shape[1] // groups).T, state.fields, node.name)
    return replace(
        state, label=np.repeat(label, channels // groups).reshape(_but(full.shape, 1, channels)), fields=table
    )


_Rule = Callable[[Node, FieldMap, tuple[int, ...]], FieldMap | None]
_RULES: tuple[tuple[frozenset[str], _Rule], ...] = (
    (_STATISTICS, _reduced),
    (NORMS | {"native_layer_norm", "native_group_norm"}, _normalised),
    (_SOFTMAX, _soft),
    (frozenset({"expand"}), _expanded),
    (frozenset({"slice"}), _sliced),
    (_SPLITS, _split),
    (frozenset({"select"}), _selected),
    (frozenset({"index", "index_select"}), _indexed),
    (frozenset({"constant_pad_nd"}), _framed),
)
