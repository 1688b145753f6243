"""Classes that draw their evidence from one place at the border of the image, unlike the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .grids import border, pooled


@dataclass(frozen=True)
class Limits:
    """What a class has to exceed to be suspected of a shortcut.

    Parameters
    ----------
    share
        Share of its evidence in one border cell.
    ratio
        That share over the mean of the other classes in the same cell.
    deviations
        That share minus this mean, in standard deviations of the other classes; not asked where there are fewer than
        three others.
    images
        Right images of the class, or of one group among its heatmaps.
    """

    share: float
    ratio: float
    deviations: float
    images: int


@dataclass(frozen=True)
class Candidate:
    """A class, or one group of its heatmaps, that draws its evidence from one border cell.

    Parameters
    ----------
    label
        The class.
    group
        Which of its groups; -1 for the whole class.
    cell
        The cell, along each axis of the coarse grid.
    share, rest
        Share of the evidence there: of the class or group, and mean of the other classes.
    deviations
        Their difference in standard deviations of the other classes; NaN for fewer than three others.
    """

    label: int
    group: int
    cell: tuple[int, ...]
    share: float
    rest: float
    deviations: float

    @property
    def ratio(self) -> float:
        """Share over that of the others; infinite where they have none."""
        return self.share / self.rest if self.rest > 0 else math.inf


def border_cells(grid: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Cells of the outer ring, row by row."""
    return tuple(tuple(map(int, cell)) for cell in np.argwhere(border(grid)))


def suspects(
    heatmap: Float[np.ndarray, "class ..."],
    n: Int[np.ndarray, " class"],
    grid: Sequence[int],
    limits: Limits,
    group_heatmap: Float[np.ndarray, "class group ..."] | None = None,
    group_n: Int[np.ndarray, "class group"] | None = None,
) -> tuple[Candidate, ...]:
    """Find classes that stand out in a border cell, and groups of classes that do not do so as a whole.

    Parameters
    ----------
    heatmap
        Mean shares of each class; NaN for a class without images.
    n
        Images behind each of them.
    grid
        Coarse grid on which they are compared.
    limits
        What counts as standing out.
    group_heatmap, group_n
        The same of the groups within each class, where there are any.

    Returns
    -------
    tuple of Candidate
        The cell of the largest excess over the other classes for each, whole classes first, largest excess first.
    """
    cells, seen = border_cells(grid), np.flatnonzero(n > 0)
    shares = _border_shares(heatmap[seen], grid, cells)
    found = []
    for row, label in enumerate(map(int, seen)):
        others = np.delete(shares, row, axis=0)
        whole = _standing_out(label, -1, shares[row], others, cells, limits) if n[label] >= limits.images else []
        found += whole
        if not whole and group_heatmap is not None and group_n is not None and (group_n[label] > 0).sum() > 1:
            groups = np.flatnonzero(group_n[label] >= limits.images)
            parts = _border_shares(group_heatmap[label][groups], grid, cells)
            for group, part in zip(map(int, groups), parts, strict=True):
                found += _standing_out(label, group, part, others, cells, limits)
    return tuple(sorted(found, key=lambda one: (one.group >= 0, one.rest - one.share, one.label, one.group)))


def _border_shares(
    heatmap: Float[np.ndarray, "row ..."], grid: Sequence[int], cells: Sequence[tuple[int, ...]]
) -> Float[np.ndarray, "row cell"]:
    coarse = pooled(heatmap, grid)
    return np.stack([coarse[(slice(None), *cell)] for cell in cells], axis=1)


def _standing_out(
    label: int,
    group: int,
    shares: Float[np.ndarray, " cell"],
    others: Float[np.ndarray, "class cell"],
    cells: Sequence[tuple[int, ...]],
    limits: Limits,
) -> list[Candidate]:
    """The candidate in its most unusual cell, if it stands out there."""
    if not len(others):
        return []
    best = int(np.argmax(shares - others.mean(axis=0)))
    share, rest, deviations = float(shares[best]), float(others[:, best].mean()), math.nan
    if len(others) >= 3:
        spread = float(others[:, best].std(ddof=1))
        deviations = (share - rest) / spread if spread > 0 else math.inf
    candidate = Candidate(label, group, cells[best], share, rest, deviations)
    return [candidate] if _stands_out(candidate, limits) else []


def _stands_out(candidate: Candidate, limits: Limits) -> bool:
    enough = candidate.share >= limits.share and candidate.ratio >= limits.ratio
    return enough and not candidate.deviations < limits.deviations
