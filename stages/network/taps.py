"""Which cells of its input an operation looks at, per axis: convolutions, pools, enlargements, cuts and padding."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch

from .graph import Node
from .operations import ADAPTIVE_POOLS, CONVOLUTIONS, arguments, sliding
from .reach import SAME, Taps

#: By name: how many cells on each side of the point that an enlarged cell comes from.
_ENLARGED = {
    "upsample_nearest1d": 0,
    "upsample_nearest2d": 0,
    "upsample_nearest3d": 0,
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 1,
    "upsample_trilinear3d": 1,
    "upsample_bicubic2d": 2,
}
#: A ratio of sizes with a longer period than this is taken for one that never repeats.
_LONGEST_PERIOD = 4096


def window_axes(node: Node) -> int | None:
    """Over how many of the last axes an operation moves windows; None where it moves none that are known."""
    if node.name in CONVOLUTIONS:
        weight = arguments(node)["weight"]
        return weight.ndim - 2 if isinstance(weight, torch.Tensor) else None
    if node.name in ADAPTIVE_POOLS | _ENLARGED.keys():
        return len(node.shape) - 2 if node.name in _ENLARGED else int(node.name.partition("pool")[2][0])
    how = sliding(node)
    return None if how is None else len(how.kernel)


def window_taps(node: Node, shape: tuple[int, ...], axis: int) -> Taps | None:
    """Which cells the windows of a convolution, pool or enlargement hold along one axis.

    Parameters
    ----------
    node
        One that `window_axes` knows.
    shape
        Of its input.
    axis
        One of the last `window_axes`.

    Returns
    -------
    Taps or None
        None where the windows follow no period.
    """
    at = axis - (len(shape) - (window_axes(node) or 0))
    if node.name in ADAPTIVE_POOLS:
        return _adaptive(shape[axis], node.shape[axis])
    if node.name in _ENLARGED:
        return _enlarged(node, shape[axis], node.shape[axis], at)
    how = sliding(node)
    if how is None:
        return _transposed(arguments(node), at)
    start, reach = -how.padding[at], how.kernel[at] * how.dilation[at]
    return Taps(how.stride[at], (tuple(range(start, start + reach, how.dilation[at])),))


def pools_all(node: Node, shape: tuple[int, ...], axis: int) -> bool:
    """Whether a pool makes one cell of all there are along an axis."""
    if node.name in CONVOLUTIONS or node.name in _ENLARGED or shape[axis] == 1 or node.shape[axis] != 1:
        return False
    taps = window_taps(node, shape, axis)
    return taps is not None and {*range(shape[axis])} <= {*taps.cells[0]}


def shifted(cells: int) -> Taps:
    """Each cell looks at the one that lies so many further on."""
    return Taps(1, ((cells,),)) if cells else SAME


def padded(node: Node, n: int, axis: int) -> Taps:
    """What is looked at after cells were put before the first, or cut off there."""
    pad, place = arguments(node)["pad"], 2 * (n - 1 - axis)
    return shifted(-int(pad[place])) if place < len(pad) else SAME


def cut(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """First and step of a slice along its axis."""
    given = arguments(node)
    length = shape[given["dim"] % len(shape)]
    start = min(max(int(given["start"] or 0), -length), length)
    return (start + length if start < 0 else start), int(given["step"])


def part_start(node: Node, shape: tuple[int, ...]) -> int:
    """Where, along the axis that is split, the part that a node picks begins."""
    given, pick = arguments(node), node.pick or 0
    if node.name == "split_with_sizes":
        return sum(given["split_sizes"][:pick])
    if node.name == "split":
        size = given["split_size"]
        return pick * size if isinstance(size, int) else sum(size[:pick])
    return pick * math.ceil(shape[given["dim"] % len(shape)] / given["chunks"])


def _transposed(given: dict[str, Any], at: int) -> Taps:
    def number(name: str) -> int:
        return int(given[name][at if len(given[name]) > 1 else 0])

    kernel, stride = int(given["weight"].shape[2 + at]), number("stride")
    padding, dilation = number("padding"), number("dilation")
    cells = []
    for cell in range(stride):
        ahead = [cell + padding - tap * dilation for tap in range(kernel)]
        # A cell between the windows looks at nothing; the one before it is more than that.
        looks = [value // stride for value in ahead if value % stride == 0] or [(cell + padding) // stride]
        cells.append(tuple(sorted(looks)))
    return Taps(1, tuple(cells))


def _adaptive(before: int, after: int) -> Taps:
    period = after // math.gcd(before, after)
    edges = [(cell * before // after, -(-(cell + 1) * before // after)) for cell in range(period)]
    return Taps(before * period // after, tuple(tuple(range(*edge)) for edge in edges))


def _enlarged(node: Node, before: int, after: int, at: int) -> Taps | None:
    given = arguments(node)
    corners = bool(given.get("align_corners")) and after > 1
    ratio = Fraction(before - 1, after - 1) if corners else Fraction(before, after)
    scale = _scale(given, at)
    if scale and not corners:
        ratio = Fraction(1 / scale).limit_denominator(_LONGEST_PERIOD)
        if abs(float(ratio) * scale - 1) > 1e-9:
            return None
    around = _ENLARGED[node.name]
    shift = Fraction(0) if corners or not around else (ratio - 1) / 2
    cells = []
    for cell in range(ratio.denominator):
        point = cell * ratio + shift
        low = math.floor(point)
        cells.append((low,) if not around or point == low else tuple(range(low - around + 1, low + around + 1)))
    return Taps(ratio.numerator, tuple(cells))


def _scale(given: dict[str, Any], at: int) -> float | None:
    """The factor that a network named instead of a size; None where it named the size."""
    factors = given.get("scale_factors")
    if factors is not None:
        return factors[at]
    names = [name for name in ("scales_d", "scales_h", "scales_w", "scales") if name in given]
    return given[names[at]] if at < len(names) else None
