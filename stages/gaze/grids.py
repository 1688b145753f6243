"""Where in an image evidence lies: heatmaps pooled to a few cells, their centre, spread and border."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

#: First and one past the last pixel along each spatial axis.
Box = tuple[tuple[int, int], ...]


def overlaps(places: int, cells: int) -> Float[np.ndarray, "cell place"]:
    """Share of each place that lies in each cell, when both divide the same length evenly; columns add up to 1."""
    cell, place = np.linspace(0, places, cells + 1), np.arange(places)
    shared = np.minimum(cell[1:, None], place + 1) - np.maximum(cell[:-1, None], place)
    return np.maximum(shared, 0.0)


def pooled(heatmap: Float[np.ndarray, "image ..."], grid: Sequence[int]) -> Float[np.ndarray, "image ..."]:
    """Add up what lies in each cell of a coarser grid; what a cell border cuts is shared out by area.

    Parameters
    ----------
    heatmap
        One map per image.
    grid
        Number of cells along each spatial axis.

    Returns
    -------
    Float[np.ndarray, "image ..."]
        Float64; every map keeps its sum.
    """
    found = np.asarray(heatmap, np.float64)
    for axis, cells in enumerate(grid, start=1):
        if found.shape[axis] != cells:
            weight = overlaps(found.shape[axis], cells)
            found = np.moveaxis(np.tensordot(found, weight, axes=(axis, 1)), -1, axis)
    return found


def distributions(heatmap: Float[np.ndarray, "image ..."], grid: Sequence[int]) -> Float[np.ndarray, "image ..."]:
    """Evidence for the class as shares of each image's whole, pooled.

    Parameters
    ----------
    heatmap
        One map per image; what is below zero is evidence against and left out.
    grid
        Number of cells along each spatial axis.

    Returns
    -------
    Float[np.ndarray, "image ..."]
        Each map adds up to 1; zero throughout for a map without evidence; NaN for one that is not finite throughout.
    """
    space = tuple(range(1, heatmap.ndim))
    known = np.isfinite(heatmap).all(axis=space, keepdims=True)
    evidence = np.where(known, np.maximum(heatmap, 0), 0.0)
    # Magnitudes are free: without the largest taken out, a sum of the smallest floats would vanish or overflow.
    largest = evidence.max(axis=space, keepdims=True)
    evidence = evidence / np.where(largest > 0, largest, 1.0)
    total = evidence.sum(axis=space, keepdims=True)
    shares = pooled(evidence / np.where(total > 0, total, 1.0), grid)
    return np.where(known.reshape(-1, *(1,) * len(grid)), shares, np.nan)


def border(grid: Sequence[int]) -> Bool[np.ndarray, " ..."]:
    """Which cells lie in the outer ring; along an axis of one or two cells all of them do."""
    ring = np.ones(tuple(grid), bool)
    ring[tuple(slice(1, -1) for _ in grid)] = False
    return ring


def border_share(shares: Float[np.ndarray, "image ..."]) -> Float[np.ndarray, " image"]:
    """Share of the evidence in the outer ring of cells; NaN for a map without evidence."""
    found = shares[:, border(shares.shape[1:])].sum(axis=1)
    return np.where(_blank(shares), np.nan, found)


def centres(shares: Float[np.ndarray, "image ..."], edges: Sequence[np.ndarray]) -> Float[np.ndarray, "image axis"]:
    """Centre of mass of the evidence.

    Parameters
    ----------
    shares
        As `distributions` gives them.
    edges
        Edges of the cells along each spatial axis, from 0 to the length of the input.

    Returns
    -------
    Float[np.ndarray, "image axis"]
        As a share of the input's length, 0 its beginning (top, left); NaN for a map without evidence.
    """
    found = [_along(shares, axis) @ _middles(edge) for axis, edge in enumerate(edges)]
    return np.where(_blank(shares)[:, None], np.nan, np.stack(found, axis=1))


def spreads(shares: Float[np.ndarray, "image ..."], edges: Sequence[np.ndarray]) -> Float[np.ndarray, " image"]:
    """Root mean squared distance of the evidence from its centre, each axis measured in the input's length.

    Zero for evidence in a single cell, 0.41 for evidence spread evenly over two axes, 0.29 over one; NaN for none.
    """
    middle = centres(shares, edges)
    squares = [
        (_along(shares, axis) * np.square(_middles(edge) - middle[:, axis, None])).sum(axis=1)
        for axis, edge in enumerate(edges)
    ]
    return np.sqrt(np.sum(squares, axis=0))


def cell_edges(
    space: Sequence[int], places: Sequence[int], grid: Sequence[int], geometry: Mapping[str, Any] | None
) -> list[Float[np.ndarray, " edge"]]:
    """Where the cells of a pooled map lie in the input, along each axis.

    Parameters
    ----------
    space
        Length of each spatial axis of the input.
    places
        Length of each axis of the map before it was pooled.
    grid
        Cells along each axis.
    geometry
        ``stride`` and ``centre`` of the map's places in input pixels per axis (see `rendering.upsampled`); None where
        they are not known, and places divide the input evenly.

    Returns
    -------
    list of ndarray
        Edges in pixels, ascending from 0 to the length of the input: outer cells reach to the border of the image.
    """
    found = []
    for axis, (length, n, cells) in enumerate(zip(space, places, grid, strict=True)):
        edge = np.linspace(0, n, cells + 1)
        if geometry is None:
            edge = edge * (length / n)
        else:
            # A place is the middle of what it stands for, as the position of a pixel is.
            edge = geometry["centre"][axis] + (edge - 0.5) * geometry["stride"][axis] + 0.5
        edge = np.clip(edge, 0, length)
        edge[0], edge[-1] = 0, length
        found.append(edge)
    return found


def coarser(edges: Sequence[np.ndarray], grid: Sequence[int]) -> list[Float[np.ndarray, " edge"]]:
    """Edges of a coarser grid over the same cells."""
    return [
        np.interp(np.linspace(0, len(edge) - 1, cells + 1), np.arange(len(edge)), edge)
        for edge, cells in zip(edges, grid, strict=True)
    ]


def boxes(edges: Sequence[np.ndarray]) -> dict[tuple[int, ...], Box]:
    """Pixels of every cell; at least one along each axis."""
    sides = []
    for edge in edges:
        whole = np.rint(edge).astype(int)
        first = np.minimum(whole[:-1], whole[-1] - 1)
        sides.append([(int(a), int(max(a + 1, b))) for a, b in zip(first, whole[1:], strict=True)])
    return {
        cell: tuple(side[i] for side, i in zip(sides, cell, strict=True))
        for cell in itertools.product(*(range(len(side)) for side in sides))
    }


def place_name(cell: Sequence[int], grid: Sequence[int]) -> str:
    """Say where a border cell lies: ``"lower left corner"``, ``"right edge"``, ``"beginning"``."""
    if len(grid) == 1:
        return "beginning" if cell[0] == 0 else "end"
    vertical, horizontal = (
        names[0] if at == 0 else names[1] if at == n - 1 else ""
        for names, at, n in zip((("upper", "lower"), ("left", "right")), cell, grid, strict=True)
    )
    if vertical and horizontal:
        return f"{vertical} {horizontal} corner"
    return f"{vertical or horizontal} edge"


def _along(shares: np.ndarray, axis: int) -> Float[np.ndarray, "image cell"]:
    return shares.sum(axis=tuple(other for other in range(1, shares.ndim) if other != axis + 1))


def _middles(edge: np.ndarray) -> np.ndarray:
    return (edge[:-1] + edge[1:]) / (2 * edge[-1])


def _blank(shares: np.ndarray) -> Bool[np.ndarray, " image"]:
    return ~(shares.reshape(len(shares), -1).sum(axis=1) > 0)
