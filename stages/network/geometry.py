"""Where the cells of a layer lie in the image, by receptive-field arithmetic along every path through the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import StageError
from .graph import Graph, Node, traced_or_reason
from .operations import (
    ADAPTIVE_POOLS,
    CONVOLUTIONS,
    REDUCTIONS,
    arguments,
    reduced_dims,
    sliding,
    spatial_axes,
)

#: Centres are sums of halves and strides are products, so that equal ones differ by rounding at most.
_SAME = 1e-6


@dataclass(frozen=True)
class Geometry:
    """Where the cells of a layer lie: the receptive field of cell `u` is centred at ``centre + u * stride``.

    Parameters
    ----------
    stride
        Input pixels from one cell to the next, per spatial axis.
    centre
        Centre of cell 0 in input pixels, per spatial axis; 0 is the middle of the first pixel.
    """

    stride: tuple[float, ...]
    centre: tuple[float, ...]

    def note(self) -> dict[str, list[float]]:
        """As it is noted in the store."""
        return {"stride": list(self.stride), "centre": list(self.centre)}


@dataclass(frozen=True)
class _Nowhere:
    """Why the cells of a node have no place in the image."""

    reason: str


def map_geometry(model: nn.Module, layers: Sequence[str], input_shape: tuple[int, ...]) -> dict[str, Geometry]:
    """Find where the cells of some layers lie in the image.

    Receptive-field arithmetic (Araujo et al. 2019, equations 3 and 4) along every path; where paths meet, their
    strides and centres have to agree. A value that has been pooled over the whole image and is multiplied back onto a
    map (squeeze and excitation) does not move the map's cells.

    Parameters
    ----------
    model
        In evaluation mode.
    layers
        Layer names.
    input_shape
        ``(channel, *space)`` of the network's input.

    Returns
    -------
    dict
        Geometry by layer.

    Raises
    ------
    StageError
        When there is no single answer, with the reason: the network cannot be followed, branches disagree, or the
        layer has no spatial axes.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    image = torch.zeros((1, *input_shape), dtype=like.dtype, device=like.device)
    graph = traced_or_reason(model, image, layers)
    if isinstance(graph, str):
        raise StageError(
            f"geometry of {', '.join(layers)}: the network cannot be followed ({graph}), so that nobody can say where "
            "the cells lie; choose a method at input resolution"
        )
    places = _places(graph, len(input_shape) - 1)
    found = {}
    for layer in layers:
        place = places[graph.layers[layer]]
        if isinstance(place, _Nowhere):
            raise StageError(f"geometry of {layer}: {place.reason}; choose another layer")
        found[layer] = place
    return found


def _places(graph: Graph, n_space: int) -> list[Geometry | _Nowhere]:
    axes = spatial_axes(graph, n_space, cuts=True)
    found: list[Geometry | _Nowhere] = [Geometry((1.0,) * n_space, (0.0,) * n_space)]
    for index, node in enumerate(graph.nodes[1:], 1):
        refs = node.refs()
        nowhere = next((found[ref] for ref in refs if isinstance(found[ref], _Nowhere)), None)
        along = axes[index]
        if nowhere is not None:
            found.append(nowhere)
        elif along is None:
            found.append(_Nowhere(f"at the operation {node.name} space is lost, or handled in an unknown way"))
        else:
            maps = [ref for ref in refs if any(graph.nodes[ref].shape[axis] > 1 for axis in axes[ref] or ())]
            # What was pooled to one cell is spread over the map and moves nothing.
            found.append(_joined(node, graph, [found[ref] for ref in maps or refs], along))
    return found


def _joined(
    node: Node, graph: Graph, before: Sequence[Geometry | _Nowhere], axes: tuple[int, ...]
) -> Geometry | _Nowhere:
    places = [place for place in before if isinstance(place, Geometry)]
    first = places[0]
    for other in places[1:]:
        if not _same(first, other):
            return _Nowhere(
                f"branches that meet at the operation {node.name} disagree: strides {first.stride} and {other.stride}, "
                f"centres {first.centre} and {other.centre}"
            )
    return _moved(node, graph.nodes[node.refs()[0]].shape, axes, first)


def _same(first: Geometry, second: Geometry) -> bool:
    pairs = zip((*first.stride, *first.centre), (*second.stride, *second.centre), strict=True)
    return all(abs(a - b) <= _SAME for a, b in pairs)


def _moved(node: Node, shape: tuple[int, ...], axes: tuple[int, ...], place: Geometry) -> Geometry | _Nowhere:
    steps = [_step(node, shape, axis) for axis in axes]
    for step in steps:
        if isinstance(step, str):
            return _Nowhere(step)
    pairs = [step for step in steps if not isinstance(step, str)]
    stride = tuple(s * factor for s, (factor, _) in zip(place.stride, pairs, strict=True))
    centre = tuple(c + s * shift for c, s, (_, shift) in zip(place.centre, place.stride, pairs, strict=True))
    return Geometry(stride, centre)


def _step(node: Node, shape: tuple[int, ...], axis: int) -> tuple[float, float] | str:
    """Along one axis: by what the stride is multiplied, and where the first cell lies in cells of the input."""
    how, n = sliding(node), len(shape)
    if how is not None:
        at = axis - (n - len(how.kernel))
        return how.stride[at], (how.kernel[at] - 1) * how.dilation[at] / 2 - how.padding[at]
    if node.name == "constant_pad_nd":
        pad, place = arguments(node)["pad"], 2 * (n - 1 - axis)
        return 1, -float(pad[place]) if place < len(pad) else 0.0
    if node.name == "slice" and arguments(node)["dim"] % n == axis:
        start, step = arguments(node)["start"] or 0, arguments(node)["step"]
        return step, float(start if start >= 0 else start + shape[axis])
    if node.name in REDUCTIONS and axis in reduced_dims(node, n):
        return shape[axis], (shape[axis] - 1) / 2
    if node.name in ADAPTIVE_POOLS:
        factor, rest = divmod(shape[axis], node.shape[axis])
        if rest:
            return f"{node.name} from {shape[axis]} to {node.shape[axis]} cells pools windows of different lengths"
        return factor, (factor - 1) / 2
    if node.name in CONVOLUTIONS:
        return "transposed convolutions are not followed"
    return 1, 0.0
