"""Pieces of maps, one per window, all of one size: cut from the map of the image as it is and the pieces before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Crop:
    """Which piece of a map is computed for each window.

    Parameters
    ----------
    start
        First cell, one row per spatial axis, one column per window; below 0 where the piece reaches into the padding.
    size
        Cells along each axis, the same for all windows.
    """

    start: Int[np.ndarray, "axis window"]
    size: tuple[int, ...]

    def equals(self, other: Crop) -> bool:
        """Whether it is the same piece for every window."""
        return self.size == other.size and np.array_equal(self.start, other.start)


def whole_crop(length: tuple[int, ...], n: int) -> Crop:
    """The whole map, for `n` windows."""
    return Crop(np.zeros((len(length), n), np.int64), length)


class Ground:
    """The map of the image as it is, with a border, ready to be cut.

    Parameters
    ----------
    value
        Of one image.
    axes
        Its spatial axes.
    before, after
        Cells of border along each.
    fill
        What the border holds.
    """

    def __init__(
        self, value: Tensor, axes: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...], fill: float
    ) -> None:
        rest = [dim for dim in range(1, value.ndim) if dim not in axes]
        cells = value[0].permute(*(dim - 1 for dim in axes), *(dim - 1 for dim in rest)).flatten(len(axes))
        if any(before) or any(after):
            pads = [width for pair in zip(before[::-1], after[::-1], strict=True) for width in pair]
            cells = torch.nn.functional.pad(cells, (0, 0, *pads), value=fill)
        self.before = before
        self.length = tuple(cells.shape[:-1])
        self.rows = cells.reshape(-1, cells.shape[-1])

    def cut(self, crop: Crop) -> Tensor:
        """Pieces ``(window * cell, rest)``."""
        index = cell_index(crop.start + np.array(self.before)[:, None], crop.size, self.length)
        return self.rows.index_select(0, torch.from_numpy(index).to(self.rows.device))


def cell_index(start: Int[np.ndarray, "axis window"], size: tuple[int, ...], length: Sequence[int]) -> np.ndarray:
    """Row of each cell of each window's piece, in a map whose cells are counted row by row.

    Parameters
    ----------
    start
        First cell of the pieces.
    size
        Of the pieces.
    length
        Of the map.

    Returns
    -------
    ndarray
        ``(window * cell,)``.
    """
    n_axis = len(size)
    index = np.zeros((1,) * (n_axis + 1), np.int64)
    for axis, (first, n, along) in enumerate(zip(start, size, length, strict=True)):
        shape = [1] * (n_axis + 1)
        shape[0], shape[axis + 1] = len(first), n
        index = index * along + (first[:, None] + np.arange(n)).reshape(shape)
    return np.broadcast_to(index, (start.shape[1], *size)).flatten()


def compose(ground: Ground, piece: Tensor, axes: tuple[int, ...], at: Crop, wanted: Crop) -> Tensor:
    """Cut pieces from the map of the image as it is, and lay over them what is changed.

    Parameters
    ----------
    ground
        The map of the image as it is.
    piece
        What is changed, ``(window, ...)`` with the cells along `axes`.
    axes
        Spatial axes of both.
    at
        Where `piece` lies.
    wanted
        Where the result shall lie.

    Returns
    -------
    Tensor
        Laid out like `piece`, channels last in memory.
    """
    shift = at.start - wanted.start
    inner = _slices(shift, at.size, wanted.size)
    if inner is not None and all(s.stop - s.start == n for s, n in zip(inner[1], wanted.size, strict=True)):
        # Everything wanted is in the piece, at one place for all windows.
        index: list[slice] = [slice(None)] * piece.ndim
        for axis, part in zip(axes, inner[0], strict=True):
            index[axis] = part
        return piece[tuple(index)]
    n = at.start.shape[1]
    rest = [dim for dim in range(1, piece.ndim) if dim not in axes]
    cells = piece.permute(0, *axes, *rest)
    shape = cells.shape[len(axes) + 1 :]
    rows = _laid_over(ground, cells.flatten(len(axes) + 1), shift, inner, at, wanted)
    order = [0, *axes, *rest]
    return rows.view(n, *wanted.size, *shape).permute(*(order.index(dim) for dim in range(piece.ndim)))


def _laid_over(
    ground: Ground,
    cells: Tensor,
    shift: np.ndarray,
    inner: tuple[tuple[slice, ...], tuple[slice, ...]] | None,
    at: Crop,
    wanted: Crop,
) -> Tensor:
    n, n_cell = at.start.shape[1], math.prod(wanted.size)
    if _covers(at, wanted):
        index = cell_index(-shift, wanted.size, at.size).reshape(n, n_cell)
        index = index + np.arange(n)[:, None] * math.prod(at.size)
        return cells.reshape(-1, cells.shape[-1]).index_select(0, torch.from_numpy(index.ravel()).to(cells.device))
    rows = ground.cut(wanted)
    if inner is not None:
        rows.view(n, *wanted.size, -1)[(slice(None), *inner[1])] = cells[(slice(None), *inner[0])]
        return rows
    target, source = _paste_index(shift, at.size, wanted.size)
    flat = cells.reshape(-1, cells.shape[-1])
    if source is not None:
        flat = flat.index_select(0, torch.from_numpy(source).to(flat.device))
    return rows.index_copy_(0, torch.from_numpy(target).to(rows.device), flat)


def _covers(at: Crop, wanted: Crop) -> bool:
    sizes = np.array(at.size)[:, None], np.array(wanted.size)[:, None]
    return bool((at.start <= wanted.start).all() and (at.start + sizes[0] >= wanted.start + sizes[1]).all())


def _slices(
    shift: np.ndarray, size: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Where piece and result overlap, in each of them, where that is the same for all windows; else None."""
    if (shift != shift[:, :1]).any():
        return None
    source, target = [], []
    for by, n, m in zip(shift[:, 0].tolist(), size, wanted, strict=True):
        first, last = max(0, by), max(max(0, by), min(m, by + n))
        target.append(slice(first, last))
        source.append(slice(first - by, last - by))
    return tuple(source), tuple(target)


def _paste_index(
    shift: np.ndarray, size: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Row in the result of each cell of the pieces, and which cells these are; None for all."""
    target = cell_index(shift, size, wanted)
    n, n_axis = shift.shape[1], len(size)
    inside = np.ones((1,) * (n_axis + 1), bool)
    for axis, (by, length, limit) in enumerate(zip(shift, size, wanted, strict=True)):
        place = by[:, None] + np.arange(length)
        shape = [1] * (n_axis + 1)
        shape[0], shape[axis + 1] = n, length
        inside = inside & ((place >= 0) & (place < limit)).reshape(shape)
    target = target + np.repeat(np.arange(n) * math.prod(wanted), math.prod(size))
    if inside.all():
        return target, None
    source = np.flatnonzero(np.broadcast_to(inside, (n, *size)))
    return target[source], source
